"""How sure a measured accuracy is, and how honest the probabilities are."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "accuracy_interval", "expected_calibration_error", "student_t_quantile"]

T_METHOD = "95% t-interval over tasks"
WILSON_METHOD = "95% Wilson interval over queries, wider side"
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Interval:
    """A mean accuracy in 0..1, the half width of its 95 % interval, and the interval's name."""

    mean: float
    half_width: float
    method: str


def accuracy_interval(per_task_correct: npt.NDArray[np.integer], queries_per_task: int) -> Interval:
    """Estimate the accuracy on new tasks from the right answers of each task ``(tasks,)``.

    Tasks are drawn independently, queries of a task share its support set: the spread is that of
    the task means, with Student's quantile. It says nothing when there is one task or all tasks
    agree; then the queries are counted as independent by Wilson's formula, which stays above zero.
    """
    task_count = len(per_task_correct)
    if task_count < 1 or queries_per_task < 1:
        raise ValueError(
            f"{task_count} tasks of {queries_per_task} queries, wanted at least one of each"
        )
    accuracies = np.asarray(per_task_correct, dtype=np.float64) / queries_per_task
    mean = float(accuracies.mean())
    if task_count == 1 or np.ptp(accuracies) == 0:
        return Interval(
            mean, _wilson_wider_side(mean, task_count * queries_per_task), WILSON_METHOD
        )
    error = float(accuracies.std(ddof=1)) / math.sqrt(task_count)
    return Interval(mean, student_t_quantile(task_count - 1) * error, T_METHOD)


def expected_calibration_error(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> float:
    """Return ECE with 15 equal-width bins of the largest probability (Guo et al. 2017).

    Sum over bins of |B| / n · |accuracy(B) - confidence(B)|, for ``probabilities`` ``(n, classes)``
    and ``labels`` ``(n,)``; bins are closed above.
    """
    if len(labels) < 1 or len(labels) != len(probabilities):
        raise ValueError(
            f"{len(probabilities)} answers and {len(labels)} labels, wanted the same, at least one"
        )
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def student_t_quantile(degrees: int, probability: float = 0.975) -> float:
    """Invert Student's distribution for a probability of at least one half.

    Newton's method from the normal quantile: the distribution is concave above zero, so the steps
    approach the root from below.
    """
    value = NormalDist().inv_cdf(probability)
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2))
    constant /= math.sqrt(degrees * math.pi)
    for _ in range(100):
        density = constant * (1 + value * value / degrees) ** (-(degrees + 1) / 2)
        step = (probability - _student_t_distribution(value, degrees)) / density
        value += step
        if abs(step) < 1e-12 * value:
            break
    return value


def _student_t_distribution(value: float, degrees: int) -> float:
    """Sum the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(value, math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine_squared * (power - 1) / power
        total += term
    within = math.sin(angle) * total
    if odd:
        within = 2 / math.pi * (angle + within)
    return 0.5 + within / 2


def _wilson_wider_side(mean: float, count: int) -> float:
    z = NormalDist().inv_cdf(0.975)
    center = (mean + z * z / (2 * count)) / (1 + z * z / count)
    spread = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + (z / count / 2) ** 2)
    return max(center + spread - mean, mean - (center - spread))
