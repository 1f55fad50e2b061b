"""What a training on a user's folder says of itself."""

from dataclasses import replace
from pathlib import Path

from kshot.trainer.evaluate.contest import Result
from kshot.trainer.output.contest_table import Contest, contest_text
from kshot.trainer.statistics import Interval


def result(title: str, *accuracies: float) -> Result:
    interval = Interval(sum(accuracies) / len(accuracies), 0.01, "tasks")
    return Result(title, {1: accuracies}, {1: interval})


CONTEST = Contest(
    result("birds", 0.9, 0.8),
    result("drawings", 0.8, 0.75),
    [result("nearest neighbour", 0.4, 0.5)],
    classes=6,
    way=5,
    tasks=2,
    trained_path=Path("runs/my birds/1"),
    start_name="drawings",
)


def test_the_better_bundle_is_served() -> None:
    lines = contest_text(CONTEST).splitlines()

    assert lines[0].startswith(
        "Accuracy in % on 5-way tasks of 6 classes that were held out, 2 for"
    )
    assert lines[3:6] == [
        "birds                85.0 ± 1.0",
        "drawings             77.5 ± 1.0",
        "nearest neighbour    45.0 ± 1.0",
    ]
    assert "+7.5 ±" in lines[7]
    assert lines[-1] == "  kshot serve --bundle 'runs/my birds/1'"

    worse = contest_text(replace(CONTEST, trained=result("birds", 0.8, 0.7)))
    assert "It gained nothing: drawings serves as it is." in worse
    assert worse.endswith("  kshot serve --bundle drawings")


def test_a_trivial_classifier_that_is_better_is_named() -> None:
    text = contest_text(replace(CONTEST, rivals=[result("HOG", 0.99, 0.95)]))

    assert "Better than both on these pictures: HOG." in text
