"""What a training on a user's folder prints: its bundle beside its start and rivals."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.trainer.evaluate.contest import Result
from kshot.trainer.statistics import Interval


@dataclass(frozen=True)
class Contest:
    """The results on the same tasks: of the trained bundle, of its start, of trivial classifiers.

    `classes` is the number of test classes, `way` that of a task, `tasks` that of tasks for each
    number of examples. `trained_path` and `start_name` are what `kshot serve` takes.
    """

    trained: Result
    start: Result
    rivals: Sequence[Result]
    classes: int
    way: int
    tasks: int
    trained_path: Path
    start_name: str

    @property
    def ahead(self) -> Mapping[int, Interval]:
        """Return how far the trained bundle is ahead of its start, by examples per class."""
        return self.trained.ahead_of(self.start)


def contest_text(contest: Contest) -> str:
    """Lay out a contest for people, with the command that serves the better bundle."""
    results = [contest.trained, contest.start, *contest.rivals]
    width = max(len(each.title) for each in results)
    shots = list(contest.trained.intervals)
    heads = [_examples(shot) for shot in shots]
    lines = [
        f"Accuracy in % on {contest.way}-way tasks of {contest.classes} classes that were held "
        f"out, {contest.tasks} for each number of examples:",
        "",
        "  ".join([" " * width, *(f"{head:>12}" for head in heads)]),
    ]
    for each in results:
        cells = (f"{_percent(each.intervals[shot]):>12}" for shot in shots)
        lines.append("  ".join([f"{each.title:{width}}", *cells]))
    told = ", ".join(
        f"{100 * of.mean:+.1f} ± {100 * of.half_width:.1f} points with {_examples(shot)}"
        for shot, of in contest.ahead.items()
    )
    return "\n".join([*lines, "", f"Training: {told}.", *_verdict(contest)])


def _verdict(contest: Contest) -> Sequence[str]:
    gained = contest.trained.mean > contest.start.mean
    best = contest.trained if gained else contest.start
    lines = [] if gained else [f"It gained nothing: {contest.start_name} serves as it is."]
    rival = max(contest.rivals, key=lambda each: each.mean, default=None)
    if rival is not None and rival.mean > best.mean:
        lines.append(f"Better than both on these pictures: {rival.title}.")
    served = str(contest.trained_path) if gained else contest.start_name
    return [*lines, "Next:", f"  {shlex.join(['kshot', 'serve', '--bundle', served])}"]


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f}"


def _examples(shot: int) -> str:
    return f"{shot} example" if shot == 1 else f"{shot} examples"
