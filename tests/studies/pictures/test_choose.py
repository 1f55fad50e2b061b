"""The settings of `photos` are chosen by the scores that the head will give."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import RidgeRule, RidgeSettings
from kshot.learner import ridge_head
from studies.pictures import choose
from studies.pictures.sets import Task

ROOT = Path(__file__).parents[3]


def test_scores_are_those_of_the_head() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(40, 6))
    labels = np.arange(5).repeat(3)
    task = Task(np.arange(15), labels, np.arange(15, 40), np.arange(5).repeat(5))

    scores = choose.solve([features, features[:, :2]], [task])

    for block, columns in enumerate((6, 2)):
        known = torch.from_numpy(features[:, :columns])
        for index, penalty in enumerate(choose.PENALTIES):
            rule = RidgeRule(3, penalty, 0.0, 1.0, (1.0,))
            settings = RidgeSettings((columns,), (rule,))
            fit = ridge_head(known[:15], torch.from_numpy(labels), 5, settings)
            wanted = (known[15:] @ fit.weight.T + fit.bias).float()
            torch.testing.assert_close(scores.queries[index, block, 0], wanted)
            losses = [
                torch.nn.functional.cross_entropy(
                    scale * fit.held_out_logits, torch.from_numpy(labels)
                )
                for scale in choose.SCALES
            ]
            expected = torch.stack(losses).min().item()
            assert scores.losses[index, block, 0].item() == pytest.approx(expected, rel=1e-5)


def test_the_pages_say_what_was_measured() -> None:
    found = json.loads((ROOT / "studies" / "pictures" / "left_out.json").read_text())
    one, five, twenty = (f"{100 * found[f'{shot}-shot']['mean']:.1f} %" for shot in (1, 5, 20))

    page = (ROOT / "docs" / "pictures.md").read_text()
    readme = (ROOT / "README.md").read_text()

    assert f"{one} with one example per class, {five} with five, {twenty} with twenty" in page
    assert f"{one} with one example per class and {five} with five" in readme
