from collections.abc import Mapping
from pathlib import Path

from studies.common.results import Provenance, Result
from studies.pictures.page import draw_overview, drawn_rows, page_blocks
from studies.pictures.tables import NOTHING


def results(*names: str) -> Mapping[str, Result]:
    accuracies = {"omniglot": 0.5, "pixels-lr": 0.55, "hog-lr": 0.6, "frozen": 0.8}
    rows = [
        {"contender": name, "accuracy": accuracy, "ci95": 0.01, "ahead": None}
        for name, accuracy in accuracies.items()
    ]
    made_with = Provenance("python studies/pictures/study.py", None, [0], None, {})
    return {name: Result("pictures", name, made_with, {}, rows) for name in names}


def test_page_without_results_says_so() -> None:
    assert set(page_blocks({}).values()) == {NOTHING}


def test_the_best_rivals_are_drawn() -> None:
    drawn = drawn_rows(results("waste-5shot")["waste-5shot"])

    assert {name: row["contender"] for name, row in drawn.items()} == {
        "omniglot": "omniglot",
        "best trivial classifier": "hog-lr",
        "best frozen + LR": "frozen",
    }
    assert drawn_rows(None) == {}


def test_overview_is_drawn(tmp_path: Path) -> None:
    draw_overview(tmp_path / "overview.png", results("grocery-5shot", "waste-5shot"))

    assert (tmp_path / "overview.png").stat().st_size > 10_000
