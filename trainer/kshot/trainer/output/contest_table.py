"""What a training on a user's folder prints: its bundle beside its start and rivals."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kshot.trainer.evaluate.contest import Result
from kshot.trainer.statistics import Interval

GAINED, UNCLEAR, LOST = "gained", "no clear difference", "lost"


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
    untuned = "; trivial classifiers are untuned" if contest.rivals else ""
    lines = [
        f"Accuracy in % on {contest.way}-way tasks of {contest.classes} classes that were held "
        f"out, {contest.tasks} for each number of examples{untuned}:",
        "",
        "  ".join([" " * width, *(f"{head:>12}" for head in heads)]),
    ]
    for each in results:
        cells = (f"{_percent(each.intervals[shot]):>12}" for shot in shots)
        lines.append("  ".join([f"{each.title:{width}}", *cells]))
    if contest.classes == contest.way:
        same = f"The tasks always have the same {contest.way} classes, so ± is that of pictures"
        lines += ["", f"{same} alone; other classes will differ."]
    return "\n".join([*lines, "", *_verdict(contest)])


def contest_document(contest: Contest) -> dict[str, object]:
    """Lay out a contest as JSON: accuracies 0..1 by examples per class, with their intervals."""
    return {
        "bundle": str(contest.trained_path),
        "start": contest.start_name,
        "way": contest.way,
        "class_count": contest.classes,
        "task_count": contest.tasks,
        "results": [
            {
                "title": each.title,
                "accuracy": {
                    str(shot): _interval_document(found) for shot, found in each.intervals.items()
                },
            }
            for each in (contest.trained, contest.start, *contest.rivals)
        ],
        "ahead_of_start": {
            str(shot): _interval_document(found) for shot, found in contest.ahead.items()
        },
    }


def _interval_document(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "half_width": interval.half_width}


def _verdict(contest: Contest) -> Sequence[str]:
    """Say by the paired intervals whether training helped, and what to serve."""
    ahead = contest.ahead
    told = "; ".join(
        f"{_difference(of)} with {_examples(shot)} ({_points(of)})" for shot, of in ahead.items()
    )
    verdicts = {_difference(of) for of in ahead.values()}
    gained = GAINED in verdicts and LOST not in verdicts
    best = contest.trained if gained else contest.start
    lines = [f"Training: {told}."]
    if not gained:
        lines.append(f"That is no clear gain: {contest.start_name} serves as it is.")
    served = str(contest.trained_path) if gained else contest.start_name
    return [
        *lines,
        f"Next{_better_rival(contest.rivals, best)}:",
        f"  {shlex.join(['kshot', 'serve', '--bundle', served])}",
    ]


def _better_rival(rivals: Sequence[Result], best: Result) -> str:
    """Name the best of the trivial classifiers that are clearly ahead of a bundle, if any is."""
    for rival in sorted(rivals, key=lambda each: -each.mean):
        told = [
            f"{_examples(shot)} ({_points(of)})"
            for shot, of in rival.ahead_of(best).items()
            if _difference(of) == GAINED
        ]
        if told:
            return f", although {rival.title} is clearly ahead with {' and '.join(told)}"
    return ""


def _difference(ahead: Interval) -> str:
    if abs(ahead.mean) <= ahead.half_width:
        return UNCLEAR
    return GAINED if ahead.mean > 0 else LOST


def _points(ahead: Interval) -> str:
    return f"{100 * ahead.mean:+.1f} ± {100 * ahead.half_width:.1f} points"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f}"


def _examples(shot: int) -> str:
    return f"{shot} example" if shot == 1 else f"{shot} examples"
