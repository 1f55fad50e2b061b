"""What is kept of a tail that adapted to tasks, and what follows from it for other settings.

The answers of a mixture of head and tail are kept for each weight that the tail may have. So the
settings that give the weight can be chosen again, such as on some of the sets, without adapting.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kshot.learner.steps.tail_weight import PULL, WEIGHTS

Values = npt.NDArray[np.float64]
# Weights whose answers are kept where no folds choose among `WEIGHTS`.
FINE_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(41))
# The likeness and slope that may be chosen.
GRID = tuple(
    (likeness, slope)
    for likeness in (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
    for slope in (1.0, 1.5, 2.0, 3.0, 4.0)
)


@dataclass(frozen=True)
class TailTask:
    """A task's right answers: of the `head` alone, at the `weight` of the bundle, at all others.

    `correct` is for each of `WEIGHTS`, as are the `losses` of left-out examples (their sum, in
    nats). Without folds there are no losses, and `correct` is for each of `FINE_WEIGHTS`. `seconds`
    are those of the processor for crops and steps.
    """

    likeness: float
    head: int
    weight: float
    right: int
    correct: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float

    def right_at(self, likeness: float, slope: float) -> int:
        """Return the right answers by other settings; without folds at the nearest weight kept."""
        prior = slope * max(0.0, self.likeness - likeness)
        if not self.losses:
            return self.correct[int(np.abs(np.array(FINE_WEIGHTS) - prior).argmin())]
        weights = np.array(WEIGHTS)
        return self.correct[int((np.array(self.losses) + PULL * np.abs(weights - prior)).argmin())]


def write_tasks(tasks: Sequence[TailTask]) -> Mapping[str, Any]:
    """Return JSON's form: a string for each field, the task's words in it."""

    def words(name: str) -> str:
        values = [getattr(task, name) for task in tasks]
        parts = [value if isinstance(value, tuple) else (value,) for value in values]
        return " ".join(",".join(f"{number:g}" for number in part) or "-" for part in parts)

    return {name: words(name) for name in TailTask.__annotations__}


def read_tasks(document: Mapping[str, Any]) -> Sequence[TailTask]:
    """Read what `write_tasks` wrote."""
    columns = {name: text.split() for name, text in document.items()}
    return [
        _read(dict(zip(columns, of, strict=True))) for of in zip(*columns.values(), strict=True)
    ]


def _read(words: Mapping[str, str]) -> TailTask:
    return TailTask(
        float(words["likeness"]),
        int(words["head"]),
        float(words["weight"]),
        int(words["right"]),
        tuple(map(int, words["correct"].split(","))),
        () if words["losses"] == "-" else tuple(map(float, words["losses"].split(","))),
        float(words["seconds"]),
    )


# Tasks by set, of each number of examples.
Sets = Mapping[str, Sequence[TailTask]]


def chosen_settings(by_shot: Iterable[Sets], without: str = "") -> tuple[float, float]:
    """Return the likeness and slope of the grid by which all sets but one gain most, on average.

    Sets count alike, and so do the numbers of examples.
    """
    found = [
        np.mean([_gains(tasks) for name, tasks in sets.items() if name != without], axis=0)
        for sets in by_shot
    ]
    return GRID[int(np.sum(found, axis=0).argmax())]


def _gains(tasks: Sequence[TailTask]) -> Values:
    """Return the mean number of further right answers `(len(GRID),)`."""
    gains = [[task.right_at(*settings) - task.head for settings in GRID] for task in tasks]
    return np.asarray(np.mean(gains, axis=0), np.float64)


def left_out_settings(by_shot: Sequence[Sets]) -> Mapping[str, tuple[float, float]]:
    """Return for each set the settings that all others choose."""
    return {name: chosen_settings(by_shot, without=name) for name in by_shot[0]}
