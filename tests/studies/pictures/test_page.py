from collections.abc import Mapping
from pathlib import Path

from studies.common.results import Provenance, Result
from studies.pictures.measure import read_set_rows
from studies.pictures.page import NOTHING, draw_overview, page_blocks, result_names


def result_of(name: str, **accuracies: float) -> Result:
    rows = [
        {
            "contender": contender.replace("_", "-"),
            "accuracy": accuracy,
            "ci95": 0.01,
            "adapt_ms": 100.0,
            "predict_ms": 2.0,
            "rival": "hog-lr" if contender.startswith("omniglot") else None,
            "ahead": accuracy - accuracies["hog_lr"] if contender.startswith("omniglot") else None,
            "ahead_ci95": 0.05 if contender.startswith("omniglot") else None,
        }
        for contender, accuracy in accuracies.items()
    ]
    made_with = Provenance("python studies/pictures/study.py", None, [0], None, {})
    return Result("pictures", name, made_with, {}, rows)


def results(*names: str) -> Mapping[str, Result]:
    return {name: result_of(name, omniglot=0.5, hog_lr=0.6) for name in names}


def test_page_without_results_says_so() -> None:
    assert set(page_blocks({}).values()) == {NOTHING}


def test_mean_needs_all_sets() -> None:
    all_sets = [f"{name}-5shot" for name in read_set_rows(table="pictures")]

    some = page_blocks(results(*all_sets[1:]))["pictures 5-shot"]
    whole = page_blocks(results(*all_sets, "spoken-digits-speakers-5shot"))["pictures 5-shot"]

    assert "mean" not in some
    assert "| grocery | 50.0 ± 1.0 | **60.0 ± 1.0** |" in whole
    # the half width of eight independent means
    assert whole.splitlines()[-1] == "| mean of the 8 sets | 50.0 ± 0.4 | 60.0 ± 0.4 |"


def test_bundles_are_compared_and_timed() -> None:
    blocks = page_blocks(results("grocery-1shot", "grocery-5shot"))

    assert blocks["pictures ahead"].splitlines() == [
        "|  | examples | best rival | `omniglot` |",
        "| --- | --- | --- | --- |",
        "| grocery | 1 | HOG + LR | **-10.0 ± 5.0** |",
        "| grocery | 5 | HOG + LR | **-10.0 ± 5.0** |",
    ]
    assert blocks["pictures times"].splitlines()[2] == "| `omniglot` | 100 | 100 | 2.0 |"
    assert blocks["drawings"] == NOTHING


def test_canvases_have_the_share_of_reduced_pictures() -> None:
    found = result_of("canvas-105-3-5shot", omniglot=0.45, omniglot_reduced=0.9, hog_lr=0.6)

    (line,) = page_blocks({found.name: found})["canvases"].splitlines()[2:]

    assert line.startswith("| 105 pixels, pen 3 | 45.0 ± 1.0 | 60.0 ± 1.0 | **90.0 ± 1.0** |")
    assert line.endswith("| 50 % |")


def test_overview_is_drawn(tmp_path: Path) -> None:
    draw_overview(tmp_path / "overview.png", results("grocery-5shot", "waste-5shot"))

    assert (tmp_path / "overview.png").stat().st_size > 10_000
    assert {"grocery-20shot", "digits-1shot", "letters-26way-5shot"} <= set(result_names())
