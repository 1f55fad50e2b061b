"""The pages say what the settings of `photos` reach on sets that were left out."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_pages_say_what_was_measured() -> None:
    found = json.loads((ROOT / "studies" / "pictures" / "left_out.json").read_text())
    one, five, twenty = (f"{100 * found[f'{shot}-shot']['mean']:.1f} %" for shot in (1, 5, 20))

    page = (ROOT / "docs" / "pictures.md").read_text()
    readme = (ROOT / "README.md").read_text()

    assert f"{one} with one example per class, {five} with five, {twenty} with twenty" in page
    assert f"{one} with one example per class and {five} with five" in readme
