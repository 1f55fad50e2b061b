from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from kshot.bench.trial.contenders import Contender
from kshot.bench.trial.cross_validation import Outcome
from kshot.bench.trial.pictures import Pictures, read_pictures
from kshot.bench.trial.report import Trial, document, draw, report_of
from kshot.client import TailReport
from kshot.trainer.output.plotting import figure_of

MakeFolder = Callable[..., Path]


def outcome(
    pictures: Pictures,
    title: str,
    wrong: Sequence[int],
    *,
    bundle: bool,
    most: float = 0.9,
    ms: float = 2.0,
) -> Outcome:
    answers = pictures.classes.copy()
    answers[list(wrong)] = 1 - answers[list(wrong)]
    sure = np.linspace(0.6, most, len(answers))
    contender = cast(Contender, SimpleNamespace(title=title, bundle=bundle))
    return Outcome(contender, answers, sure, answers == pictures.classes, 1234.5, ms)


@pytest.fixture
def trial(make_folder: MakeFolder) -> Trial:
    folder = make_folder(blue=6, red=6)
    pictures = read_pictures(folder, 8)
    outcomes = [
        outcome(pictures, "omniglot", [1, 6], bundle=True),
        outcome(pictures, "HOG", [0, 1, 2, 3, 4], bundle=False),
    ]
    growths = {"omniglot": {1: 0.5, 3: 0.75}, "HOG": {1: 0.25, 3: 0.375}}
    return Trial(folder, pictures, outcomes, growths, "", {"omniglot": "bundles/my omniglot"})


def test_report_has_the_sentences(trial: Trial) -> None:
    report = report_of(trial)

    assert report.title == "2 classes, 8 pictures, 4-fold cross-validation"
    assert report.rows[0][0::2] == ("omniglot", "1,234")
    notes = report.notes
    assert notes[0].startswith("Only 8 of 12 pictures were used")
    assert notes[1].startswith("omniglot against the best trivial classifier: +37.5 ± ")
    assert notes[1].endswith("too few to tell them apart.")
    assert notes[2] == "omniglot by examples per class: 1: 50 %, 3: 75 %."
    assert notes[4] == "omniglot was wrong on 2, the surest first:"
    assert notes[5] == f"  {trial.pictures.names[6]}: taken for blue (86 %)"
    assert notes[-3] == "Next:"
    assert notes[-2] == "  kshot serve --bundle 'bundles/my omniglot'"
    assert notes[-1] == f"  kshot adapt {trial.folder} --model omniglot"


def test_running_server_needs_no_serve(trial: Trial) -> None:
    named = Trial(trial.folder, trial.pictures, trial.outcomes, {}, "host:1", {})

    assert named.next_lines == [
        f"kshot adapt {trial.folder} --model omniglot --server host:1",
    ]


@pytest.mark.parametrize(
    ("tails", "said"),
    [
        ((), None),
        ([TailReport(0.1, 20, 6, 9.5), TailReport(0, 0, 0, 9)], "adapted in 1 of 2 folds."),
        (
            [TailReport(0, 20, 6, 9.5), TailReport(0, 0, 0, 9)],
            "as they were, which answers better.",
        ),
        (
            [TailReport(0, 0, 0, 9.5), TailReport(0, 0, 0, 9)],
            "too little time to adapt; --time-budget 10 lets them, in each of 2 folds.",
        ),
    ],
)
def test_the_report_tells_of_last_layers(
    trial: Trial, tails: Sequence[TailReport], said: str | None
) -> None:
    told = replace(trial.outcomes[0], tails=tuple(tails))
    found = replace(trial, outcomes=[told, *trial.outcomes[1:]], time_budget=2.5)

    notes = [note for note in report_of(found).notes if "its last layers" in note]
    assert [note.endswith(str(said)) for note in notes] == [True] * (said is not None)
    assert found.next_lines[-1].endswith("--model omniglot --time-budget 2.5")
    assert len(document(found)["contenders"][0]["tails"]) == len(tails)


def test_document_has_the_confusion_of_the_best(trial: Trial) -> None:
    found = document(trial)

    assert found["confusion"] == [[3, 1], [1, 3]]
    assert [one["taken_for"] for one in found["wrong"]] == ["blue", "red"]
    assert (found["bundle"], found["ahead"]) == ("omniglot", 0.375)
    assert found["contenders"][1]["accuracy"] == 0.375


def test_picture_has_both_panels(trial: Trial) -> None:
    figure = figure_of(lambda figure: draw(figure, trial))
    matrix, curves = figure.axes

    assert [text.get_text() for text in matrix.texts] == ["3", "1", "1", "3"]
    assert [line.get_label() for line in curves.lines] == ["omniglot", "HOG"]


def test_ties_are_broken_by_what_a_user_gains(trial: Trial) -> None:
    """The surer of what is right, then the faster; the report says that they are level."""
    names = {"slow": (0.8, 3.0), "vague": (0.7, 1.0), "fast": (0.8, 1.0)}
    level = [
        outcome(trial.pictures, name, [0], bundle=True, most=most, ms=ms)
        for name, (most, ms) in names.items()
    ]
    outcomes = sorted([*trial.outcomes, *level], key=lambda one: one.place)

    titles = [one.contender.title for one in outcomes]
    assert titles == ["fast", "slow", "vague", "omniglot", "HOG"]
    notes = report_of(Trial(trial.folder, trial.pictures, outcomes, {}, "", {})).notes
    assert [note.split(";")[0] for note in notes[2:4]] == [
        "slow is right as often as fast",
        "vague is right as often as fast",
    ]
    assert notes[2].endswith("3.0 ms per picture against 1.0.")


def test_the_bundle_to_serve_names_those_that_are_as_often_right(trial: Trial) -> None:
    """Where a trivial classifier is ahead of all."""
    made = [
        outcome(trial.pictures, "rival", [], bundle=False),
        outcome(trial.pictures, "sure", [0], bundle=True, most=0.9),
        outcome(trial.pictures, "vague", [0], bundle=True, most=0.6),
    ]
    outcomes = sorted(made, key=lambda one: one.place)

    found = Trial(trial.folder, trial.pictures, outcomes, {}, "", {})

    assert [one.contender.title for one in found.level_bundles] == ["vague"]
    assert "sure is surer than vague, as often right." in report_of(found).notes
