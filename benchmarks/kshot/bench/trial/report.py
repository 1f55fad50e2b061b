"""What a trial prints: its table, its sentences, its JSON and its picture."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kshot.bench.report import Report
from kshot.bench.trial.cross_validation import Outcome
from kshot.bench.trial.pictures import Pictures
from kshot.trainer.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADINGS = ("", "accuracy, %", "ms per adaptation", "ms per picture")
WORST_COUNT = 10
MOST_NUMBERED_CLASSES, MOST_LETTERS = 15, 16


@dataclass(frozen=True)
class Trial:
    """All outcomes, the best first, and the accuracy by examples per class.

    `growths` has the best bundle's and the best trivial classifier's, by title. `address` is the
    server's, empty for one of the trial's own; `bundles` names models that are folders.
    `time_budget` is in seconds, None for the server's.
    """

    folder: Path
    pictures: Pictures
    outcomes: Sequence[Outcome]
    growths: Mapping[str, Mapping[int, float]]
    address: str
    bundles: Mapping[str, str]
    time_budget: float | None = None

    @property
    def best(self) -> Outcome:
        """Return the most accurate; of those, the surest of what is right."""
        return self.outcomes[0]

    @property
    def level(self) -> Sequence[Outcome]:
        """Return those that are right as often as the best."""
        right = self.best.correct.sum()
        return [one for one in self.outcomes[1:] if one.correct.sum() == right]

    @property
    def best_bundle(self) -> Outcome:
        """Return the most accurate bundle."""
        return next(one for one in self.outcomes if one.contender.bundle)

    @property
    def level_bundles(self) -> Sequence[Outcome]:
        """Return the bundles that are level with the best one, where a rival is the best of all."""
        if self.best.contender.bundle:
            return []
        bundles = [one for one in self.outcomes if one.contender.bundle]
        return [one for one in bundles[1:] if one.correct.sum() == bundles[0].correct.sum()]

    @property
    def best_rival(self) -> Outcome:
        """Return the most accurate trivial classifier."""
        return next(one for one in self.outcomes if not one.contender.bundle)

    @property
    def ahead(self) -> Interval:
        """Return how far the best bundle is ahead of the best trivial classifier."""
        return self.best_bundle.ahead_of(self.best_rival)

    @property
    def worst(self) -> Sequence[int]:
        """Return the rows that the best contender got wrong, the surest first."""
        wrong = np.flatnonzero(~self.best.correct)
        return [int(row) for row in wrong[np.argsort(-self.best.probabilities[wrong])]]

    @property
    def next_lines(self) -> Sequence[str]:
        """Return the commands that adapt the best bundle to all pictures."""
        model = self.best_bundle.contender.title
        served = shlex.join(["kshot", "serve", "--bundle", self.bundles.get(model, model)])
        words = ["kshot", "adapt", str(self.folder), "--model", model]
        if self.time_budget is not None:
            words += ["--time-budget", f"{self.time_budget:g}"]
        if self.address:
            return [shlex.join([*words, "--server", self.address])]
        return [served, shlex.join(words)]


def report_of(trial: Trial) -> Report:
    """Lay out a trial for people."""
    pictures = trial.pictures
    way, count = len(pictures.class_names), len(pictures.data)
    sizes = f"{way} classes, {count} pictures, {pictures.fold_count}-fold cross-validation"
    rows = [
        (
            one.contender.title,
            f"{100 * one.accuracy.mean:.1f} ± {100 * one.accuracy.half_width:.1f}",
            f"{one.adapt_ms:,.0f}",
            f"{one.picture_ms:.1f}",
        )
        for one in trial.outcomes
    ]
    return Report(sizes, HEADINGS, rows, _notes(trial))


def _notes(trial: Trial) -> Sequence[str]:
    pictures, ahead = trial.pictures, trial.ahead
    notes = []
    if pictures.found_count > len(pictures.data):
        notes.append(
            f"Only {len(pictures.data)} of {pictures.found_count:,} pictures were used, at random; "
            "--pictures takes more."
        )
    clear = abs(ahead.mean) > ahead.half_width
    verdict = "" if clear else "; the pictures are too few to tell them apart"
    notes.append(
        f"{trial.best_bundle.contender.title} against the best trivial classifier: "
        f"{100 * ahead.mean:+.1f} ± {100 * ahead.half_width:.1f} points{verdict}."
    )
    best = trial.best
    notes += [
        f"{one.contender.title} is right as often as {best.contender.title}; log loss "
        f"{one.log_loss:.2f} against {best.log_loss:.2f}, {one.picture_ms:.1f} ms per picture "
        f"against {best.picture_ms:.1f}."
        for one in trial.level
    ]
    if level := ", ".join(one.contender.title for one in trial.level_bundles):
        notes.append(f"{trial.best_bundle.contender.title} is surer than {level}, as often right.")
    notes += [_tail_note(one) for one in trial.outcomes if one.tails]
    for title, grown in trial.growths.items():
        told = ", ".join(f"{count}: {100 * share:.0f} %" for count, share in grown.items())
        notes.append(f"{title} by examples per class: {told}.")
    worst = trial.worst
    if worst:
        notes.append(f"{trial.best.contender.title} was wrong on {len(worst)}, the surest first:")
    for row in worst[:WORST_COUNT]:
        taken = pictures.class_names[trial.best.answers[row]]
        sure = f"{100 * trial.best.probabilities[row]:.0f} %"
        notes.append(f"  {pictures.names[row]}: taken for {taken} ({sure})")
    return [*notes, "Next:", *(f"  {line}" for line in trial.next_lines)]


def _tail_note(outcome: Outcome) -> str:
    """Say in how many folds the last layers of a bundle's encoder adapted, or why in none."""
    title, folds = outcome.contender.title, len(outcome.tails)
    adapted = sum(tail.weight > 0 for tail in outcome.tails)
    if adapted:
        return f"{title}: its last layers adapted in {adapted} of {folds} folds."
    if any(tail.tried for tail in outcome.tails):
        return f"{title}: its last layers stayed as they were, which answers better."
    needed = math.ceil(max(tail.needed_time for tail in outcome.tails))
    return (
        f"{title}: its last layers had too little time to adapt; --time-budget {needed} lets them, "
        f"in each of {folds} folds."
    )


def document(trial: Trial) -> dict[str, Any]:
    """Lay out a trial for machines; accuracies in 0..1."""
    pictures, best, ahead = trial.pictures, trial.best, trial.ahead
    return {
        "classes": list(pictures.class_names),
        "pictures": len(pictures.data),
        "found_pictures": pictures.found_count,
        "folds": pictures.fold_count,
        "time_budget": trial.time_budget,
        "contenders": [
            {
                "name": one.contender.title,
                "bundle": one.contender.bundle,
                "accuracy": one.accuracy.mean,
                "ci95": one.accuracy.half_width,
                "log_loss": one.log_loss,
                "ms_per_adaptation": round(one.adapt_ms, 3),
                "ms_per_picture": round(one.picture_ms, 3),
                "tails": [asdict(tail) for tail in one.tails],
            }
            for one in trial.outcomes
        ],
        "bundle": trial.best_bundle.contender.title,
        "ahead": ahead.mean,
        "ahead_ci95": ahead.half_width,
        "accuracy_by_examples": {
            title: {str(count): share for count, share in grown.items()}
            for title, grown in trial.growths.items()
        },
        "confusion": confusion(trial).tolist(),
        "wrong": [
            {
                "file": pictures.names[row],
                "taken_for": pictures.class_names[best.answers[row]],
                "probability": float(best.probabilities[row]),
            }
            for row in trial.worst
        ],
        "next": list(trial.next_lines),
    }


def confusion(trial: Trial) -> Any:  # noqa: ANN401 -- an array
    """Count the best contender's answers: int64 `(way, way)`, a row for each true class."""
    way = len(trial.pictures.class_names)
    pairs = trial.pictures.classes * way + trial.best.answers
    return np.bincount(pairs, minlength=way * way).reshape(way, way)


def draw(figure: Figure, trial: Trial) -> None:
    """Draw the confusion of classes, and the accuracy over the examples per class."""
    matrix, names = confusion(trial), trial.pictures.class_names
    left, right = figure.subplots(1, 2)
    left.imshow(matrix / matrix.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    shown = [
        name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 1]}…" for name in names
    ]
    left.set_xticks(range(len(names)), shown, rotation=90)
    left.set_yticks(range(len(names)), shown)
    left.set_xlabel("taken for")
    left.set_ylabel("is")
    left.set_title(trial.best.contender.title, fontsize="medium")
    if len(names) <= MOST_NUMBERED_CLASSES:
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                dark = count > counts.sum() / 2
                left.text(
                    column,
                    row,
                    str(count or ""),
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                )
    for title, grown in trial.growths.items():
        right.plot(list(grown), [100 * share for share in grown.values()], "o-", label=title)
    right.set_xlabel("examples per class")
    right.set_ylabel("accuracy, %")
    right.set_ylim(0, 102)
    right.grid(alpha=0.3)
    right.legend(fontsize="small", loc="lower right")
