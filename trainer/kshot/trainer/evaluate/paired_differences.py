"""What one variant is better than another on the same tasks."""

from collections.abc import Sequence

import numpy as np

from kshot.trainer.statistics import (
    SAME_METHOD,
    Interval,
    all_equal,
    differing_share_bound,
    t_half_width,
)

__all__ = ["PAIRED_METHOD", "paired_difference"]

PAIRED_METHOD = "95% t-interval over paired tasks"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Estimate how much larger ``first`` is than ``second`` on new tasks; same tasks, same order.

    The mean of d_t = first_t - second_t with Student's interval of the d_t: what makes a task hard
    is hard for both and cancels. Where all d_t are equal, or there is one, their spread says
    nothing; the share of tasks with another difference is then below Wilson's bound
    ``z^2 / (n + z^2)``, and a difference of accuracies is at most 1.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{len(first)} and {len(second)} accuracies, wanted the same number, at least 1"
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, count = float(differences.mean()), len(differences)
    if all_equal(differences):  # so is one
        return Interval(mean, differing_share_bound(count), SAME_METHOD)
    return Interval(mean, t_half_width(differences), PAIRED_METHOD)
