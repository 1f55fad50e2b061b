"""The difference of two variants' accuracies on the same tasks."""

from collections.abc import Sequence

import numpy as np

from kshot.trainer.statistics import (
    SAME_METHOD,
    Interval,
    all_equal,
    differing_share_bound,
    t_half_width,
)

PAIRED_METHOD = "95% t-interval over paired tasks"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Estimate the mean of `first - second` on new tasks, given accuracies on the same tasks.

    The mean of d_t = first_t - second_t with Student's interval of the d_t: the difficulty of a
    task is the same for both and cancels. When all d_t are equal, or there is only one, their
    spread is no estimate; the share of tasks with another difference is then below Wilson's bound
    `z^2 / (n + z^2)`, and a difference of accuracies is at most 1.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"expected equally many accuracies, at least 1, got {len(first)} and {len(second)}"
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, count = float(differences.mean()), len(differences)
    if all_equal(differences):  # so is one
        return Interval(mean, differing_share_bound(count), SAME_METHOD)
    return Interval(mean, t_half_width(differences), PAIRED_METHOD)
