"""How good an adapted model is, from the logits of examples that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LEVEL = 1e-3  # logits that differ by less, relative to their size, differ by rounding
# Errors fall about as the root of the examples per class, by the sets of docs/pictures.md.
_LEARNING_EXPONENT = 0.5
# Of logits, to find the one that suits left-out answers best.
_SCALES = np.geomspace(1 / 32, 32, 21)
_NO_DIFFERENCE = 0.01  # nats
_NORMAL_QUANTILE = 1.6448536269514722  # two-sided 90 %


@dataclass(frozen=True)
class AccuracyEstimate:
    """The accuracy to expect on new queries (a fraction), and its 90 % interval.

    A left-out answer comes from fewer examples of its class than the model has, so fewer of new
    answers are wrong: `(1 - 1/k)^0.5` times as many where one of k examples, or of k folds, is
    left out.

    `confusion[i, j]` counts the examples of class i, of `example_count`, that the others take for
    class j. Classes with one example take no part. `losses` `(example_count,)` are cross-entropies
    of the left-out answers, in nats, with the scale of logits that makes their mean least: so
    models compare, calibrated or not.
    """

    accuracy: float
    low: float
    high: float
    example_count: int
    confusion: Integers
    losses: Floats64

    @property
    def cross_entropy(self) -> float:
        """Return the mean of the losses."""
        return float(self.losses.mean())

    def worse_than(self, other: AccuracyEstimate) -> bool:
        """Tell whether another model of the same examples is better by over a standard error."""
        differences = self.losses - other.losses
        error = differences.std(ddof=1) / np.sqrt(_independent(len(differences)))
        return bool(differences.mean() > max(error, _NO_DIFFERENCE))


def estimate_accuracy(
    held_out_logits: Floats, classes: Integers, way: int, fold_count: int | None = None
) -> AccuracyEstimate | None:
    """Estimate from left-out logits `(n, way)` of examples of classes `(n,)`.

    Examples were left out one by one, or in `fold_count` folds. None unless two classes have two
    examples: one example cannot be both learned and tested. The interval is Wilson's (1927).
    """
    counts = np.bincount(classes, minlength=way)
    told = counts[classes] > 1
    if len(np.unique(classes[told])) < 2:
        return None
    logits = held_out_logits[told]
    answers = logits.argmax(axis=1)
    confusion = np.zeros((way, way), np.int64)
    np.add.at(confusion, (classes[told], answers), 1)
    count = int(told.sum())
    # Where pictures do not differ, rounding decides: classes that are level share the answer.
    best = logits.max(axis=1, keepdims=True)
    level = logits >= best - _LEVEL * np.maximum(1, np.abs(best))
    sharing = level.sum(axis=1)
    wrong = 1 - level[np.arange(count), classes[told]] / sharing
    parts = np.minimum(counts, fold_count or len(classes))
    fewer = (1 - 1 / parts[classes[told]]) ** _LEARNING_EXPONENT
    accuracy = float(1 - (wrong * np.where(sharing > 1, 1, fewer)).mean())
    low, high = _wilson(accuracy, _independent(count))
    losses = _losses(held_out_logits[told].astype(np.float64), classes[told])
    return AccuracyEstimate(accuracy, low, high, count, confusion, losses)


def _independent(count: int) -> float:
    """Return how many independent answers vary like `count` left-out ones, which share examples.

    Measured on the sets of docs/pictures.md, with 2 to 20 examples in each of 5 classes.
    """
    return count / (1.5 + count / 40)


def _losses(logits: Floats64, classes: Integers) -> Floats64:
    """Return cross-entropies `(n,)` at the scale of logits `(n, way)` with the least mean."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(classes)), classes]
    at_scales = (np.log(np.exp(scale * shifted).sum(axis=1)) - scale * own for scale in _SCALES)
    return min(at_scales, key=np.mean)


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` trials."""
    square = _NORMAL_QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
