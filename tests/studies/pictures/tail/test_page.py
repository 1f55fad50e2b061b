from pathlib import Path

from studies.common.results import Row
from studies.pictures.measure import read_set_rows
from studies.pictures.tail.page import draw_curve, tail_table


def row(seconds: float, ahead: float) -> Row:
    return {
        "tasks": 40,
        "head": 0.8,
        "accuracy": 0.8 + ahead,
        "ahead": ahead,
        "ahead_ci95": 0.004,
        "left_out": ahead / 2,
        "left_out_ci95": 0.006,
        "adapted": 0.66,
        "seconds": seconds,
    }


FOUND = {
    ("waste-5shot", "folds-of-12"): {**row(9.0, 0.0), "ahead_ci95": None, "left_out_ci95": None},
    ("waste-5shot", "folds-of-6"): row(6.0, 0.0),
    ("mean-5shot", "folds-of-12"): row(9.0, 0.02),
    ("mean-5shot", "folds-of-6"): row(6.0, 0.01),
    ("mean-1shot", "20-steps"): row(1.3, 0.02),
    ("mean-1shot", "20-steps-left-out"): row(1.3, 0.03),
}


def test_means_come_first_then_the_sets_of_what_is_served() -> None:
    lines = tail_table(FOUND).splitlines()[2:]

    mean = "80.0 | 82.0 | +2.0 ± 0.4 | +1.0 ± 0.6 | 66 |"
    assert lines == [
        f"| mean | 5 | folds of 12 | 40 | {mean} 9.0 |",
        "| mean | 5 | folds of 6 | 40 | 80.0 | 81.0 | +1.0 ± 0.4 | +0.5 ± 0.6 | 66 | 6.0 |",
        f"| mean | 1 | 20 steps | 40 | {mean} 1.3 |",
        "| mean | 1 | 20 steps left out | 40 | 80.0 | 83.0 | +3.0 ± 0.4 | +1.5 ± 0.6 | 66 | 1.3 |",
        "| waste | 5 | folds of 12 | 40 | 80.0 | 80.0 | 0 | 0 | 66 | 9.0 |",
    ]


def test_the_curve_begins_with_the_head_alone(tmp_path: Path) -> None:
    times = {
        (f"{name}-{shot}shot", "photos"): {"adapt_ms": 350.0}
        for name in read_set_rows(table="pictures")
        for shot in (1, 5)
    }

    common = {(trial.replace("mean", "common"), plan): of for (trial, plan), of in FOUND.items()}
    draw_curve(tmp_path / "tails.png", {"times": times, "tails": common})

    assert (tmp_path / "tails.png").stat().st_size > 10_000
