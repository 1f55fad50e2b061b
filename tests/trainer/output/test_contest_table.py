"""What a training on a user's folder says of itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from kshot.trainer.evaluate.contest import Result
from kshot.trainer.output.contest_table import Contest, contest_text
from kshot.trainer.statistics import Interval


def result(title: str, *accuracies: float) -> Result:
    """Make a result with 5 examples whose accuracies are a point higher than with 1."""
    by_shot = {1: accuracies, 5: [each + 0.01 for each in accuracies]}
    mean = sum(accuracies) / len(accuracies)
    return Result(title, by_shot, {shot: Interval(mean, 0.01, "tasks") for shot in by_shot})


CONTEST = Contest(
    result("birds", 0.9, 0.81, 0.85),
    result("drawings", 0.8, 0.7, 0.75),
    [result("nearest neighbour", 0.4, 0.5, 0.45)],
    classes=6,
    way=5,
    tasks=3,
    trained_path=Path("runs/my birds/1"),
    start_name="drawings",
)


def test_the_better_bundle_is_served() -> None:
    lines = contest_text(CONTEST).splitlines()

    assert lines[0].startswith(
        "Accuracy in % on 5-way tasks of 6 classes that were held out, 3 for"
    )
    assert lines[0].endswith("; trivial classifiers are untuned:")
    assert lines[3:6] == [
        "birds                85.3 ± 1.0    85.3 ± 1.0",
        "drawings             75.0 ± 1.0    75.0 ± 1.0",
        "nearest neighbour    45.0 ± 1.0    45.0 ± 1.0",
    ]
    assert lines[7].startswith("Training: gained with 1 example (+10.3 ± 1.4 points); gained with")
    assert lines[-2:] == ["Next:", "  kshot serve --bundle 'runs/my birds/1'"]


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [((0.9, 0.7, 0.76), "no clear difference"), ((0.7, 0.61, 0.65), "lost")],
)
def test_the_start_is_served_without_a_clear_gain(
    accuracies: tuple[float, ...], verdict: str
) -> None:
    text = contest_text(replace(CONTEST, trained=result("birds", *accuracies)))

    assert f"Training: {verdict} with 1 example (" in text
    assert "no clear gain: drawings serves as it is." in text
    assert text.endswith("  kshot serve --bundle drawings")


def test_a_gain_with_one_number_of_examples_and_a_loss_with_another_is_no_gain() -> None:
    mixed = Result("birds", {1: (0.9, 0.8, 0.86), 5: (0.5, 0.4, 0.44)}, CONTEST.start.intervals)
    text = contest_text(replace(CONTEST, trained=mixed))

    assert "gained with 1 example" in text
    assert "lost with 5 examples" in text
    assert text.endswith("  kshot serve --bundle drawings")


def test_a_trivial_classifier_that_is_clearly_ahead_is_named() -> None:
    rivals = [result("pixels", 0.9, 0.81, 0.86), result("HOG", 0.99, 0.9, 0.95)]
    text = contest_text(replace(CONTEST, rivals=rivals))

    assert "\nNext, although HOG is clearly ahead with 1 example (+9.3 ± 1.4 points) and 5" in text
    assert "although" not in contest_text(replace(CONTEST, rivals=rivals[:1]))


def test_an_interval_over_the_same_classes_says_so() -> None:
    assert "same" not in contest_text(CONTEST)
    told = "\nThe tasks always have the same 5 classes, so ± is that of pictures alone; other"
    assert told in contest_text(replace(CONTEST, classes=5))
