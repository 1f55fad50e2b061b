"""The score of predictions for files whose classes are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.6449  # of a normal distribution: 90 % lie within


@dataclass(frozen=True)
class Score:
    """How often each class was taken for each: `counts` by (true class, predicted class).

    A predicted class of None is `none of these`.
    """

    class_names: tuple[str, ...]
    counts: Counter[tuple[str, str | None]]

    @property
    def count(self) -> int:
        """The number of files."""
        return sum(self.counts.values())

    @property
    def correct_count(self) -> int:
        """The number of files that are taken for their class."""
        return sum(self.counts[name, name] for name in self.class_names)

    @property
    def accuracy(self) -> float:
        """The share of these."""
        return self.correct_count / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """The 90 % interval of the accuracy."""
        return wilson(self.correct_count, self.count)

    @property
    def predicted_names(self) -> tuple[str | None, ...]:
        """The columns of the confusion matrix: the classes, and None where files are of none."""
        refused = any(predicted is None for _, predicted in self.counts)
        return (*self.class_names, *((None,) if refused else ()))

    def row(self, name: str) -> list[int]:
        """Count what the files of a class are taken for, in the order of `predicted_names`."""
        return [self.counts[name, predicted] for predicted in self.predicted_names]

    def document(self) -> dict[str, object]:
        """Return the score for machines."""
        low, high = self.interval
        per_class = []
        for name in self.class_names:
            count, correct = sum(self.row(name)), self.counts[name, name]
            accuracy = correct / count if count else None
            per_class.append(
                {"class": name, "count": count, "correct_count": correct, "accuracy": accuracy}
            )
        return {
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
            "count": self.count,
            "per_class": per_class,
            "confusion": {
                "predicted": list(self.predicted_names),
                "rows": {name: self.row(name) for name in self.class_names},
            },
        }


def score(class_names: Sequence[str], pairs: Sequence[tuple[str, str | None]]) -> Score | None:
    """Score pairs of true and predicted class; None without any."""
    return Score(tuple(class_names), Counter(pairs)) if pairs else None


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Return the 90 % interval of a share by Wilson's score (Wilson 1927).

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    """
    p, n, z = correct / count, count, _Z
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))
