"""Intervals of measured accuracies, and the calibration error of probabilities."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

T_METHOD = "95% t-interval over tasks"
WILSON_METHOD = "95% Wilson interval over queries, wider side"
SAME_METHOD = "95% Wilson bound on the share of tasks that differ otherwise"
# Far above the rounding of sums of accuracies, far below one answer's share of them.
ROUNDING = 1e-12
CALIBRATION_BINS = 15
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Interval:
    """A mean, the half width of its 95 % interval, and the interval's name."""

    mean: float
    half_width: float
    method: str


def accuracy_interval(per_task_correct: npt.NDArray[np.integer], queries_per_task: int) -> Interval:
    """Estimate the accuracy on new tasks from the correct answers of each task `(tasks,)`.

    Tasks are independent, but the queries of a task share its support set, so the interval comes
    from the spread of the task means, with Student's quantile. With one task, or equal accuracies,
    that spread says nothing; then Wilson's formula takes the queries as independent.
    """
    task_count = len(per_task_correct)
    accuracies = np.asarray(per_task_correct, dtype=np.float64) / queries_per_task
    mean = float(accuracies.mean())
    if task_count == 1 or np.ptp(accuracies) == 0:
        return Interval(
            mean, _wilson_wider_side(mean, task_count * queries_per_task), WILSON_METHOD
        )
    return Interval(mean, t_half_width(accuracies), T_METHOD)


def t_half_width(values: npt.NDArray[np.floating]) -> float:
    """Return the half width of the 95 % interval of a mean of independent `values` `(n,)`.

    `t(n - 1) s / sqrt(n)`, with s the standard deviation by n - 1; n is at least 2.
    """
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return student_t_quantile(len(values) - 1) * error


def all_equal(values: npt.NDArray[np.floating]) -> bool:
    """Return whether all values are equal up to rounding, so that their spread says nothing."""
    return bool(np.ptp(values) < ROUNDING)


def differing_share_bound(count: int) -> float:
    """Bound the share of tasks that differ from `count` equal ones: Wilson's z^2 / (n + z^2)."""
    return Z * Z / (count + Z * Z)


def calibration_error(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]
) -> float:
    """Return ECE with 15 equal-width bins of the largest probability (Guo et al. 2017).

    Sum over bins of |B| / n · |accuracy(B) - confidence(B)|, for `confidence` `(n,)` in 0..1
    and whether each answer is `correct` `(n,)`; bins are closed above.
    """
    sure = confidence.astype(np.float64)
    bins = np.clip(np.ceil(sure * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - sure, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(sure))


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
    center = (mean + Z * Z / (2 * count)) / (1 + Z * Z / count)
    spread = Z / (1 + Z * Z / count) * math.sqrt(mean * (1 - mean) / count + (Z / count / 2) ** 2)
    return max(center + spread - mean, mean - (center - spread))
