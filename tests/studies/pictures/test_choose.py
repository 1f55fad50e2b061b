"""The settings of `photos` on sets that were left out, and what the pages say of them."""

import json
from pathlib import Path

import torch

from kshot.trainer.evaluate.ridge_rules import PENALTIES, Scores
from studies.pictures.choose import left_out_rules, measure

ROOT = Path(__file__).parents[3]


def test_the_pages_say_what_was_measured() -> None:
    found = json.loads((ROOT / "studies" / "pictures" / "left_out.json").read_text())
    one, five, twenty = (f"{100 * found[f'{shot}-shot']['mean']:.1f} %" for shot in (1, 5, 20))

    page = (ROOT / "docs" / "pictures.md").read_text()
    readme = (ROOT / "README.md").read_text()

    assert f"{one} with one example per class, {five} with five, {twenty} with twenty" in page
    assert f"{one} with one example per class and {five} with five" in readme


def scores(best_block: int) -> Scores:
    """Two blocks answer 20 tasks of two queries by chance, but for the best one."""
    generator = torch.Generator().manual_seed(best_block)
    queries = torch.randn(len(PENALTIES), 2, 20, 2, 5, generator=generator)
    labels = torch.tensor([0, 3])
    queries[:, best_block, :, torch.arange(2), labels] += 4
    return Scores(queries, labels, torch.ones(len(PENALTIES), 2, 20))


def test_a_set_has_no_part_in_its_own_rule() -> None:
    """Two sets know by block 0; the third, by block 1, is measured by their rule."""
    sets = {"first": scores(0), "second": scores(0), "third": scores(1)}

    rules = dict(left_out_rules(sets, 1))
    others = dict(left_out_rules({**sets, "third": scores(0)}, 1))

    assert rules["third"] == others["third"] != rules["first"]
    assert rules["third"].weights[0] > 0.5
    found = [measure(sets[name], rules["third"], 1)["accuracy"] for name in ("third", "first")]
    assert found[0] < 0.9 < found[1]
