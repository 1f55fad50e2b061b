import math

import numpy as np
import pytest

from kshot.trainer.evaluate.paired_differences import PAIRED_METHOD, paired_difference
from kshot.trainer.statistics import SAME_METHOD


def test_the_interval_is_that_of_the_tasks_differences() -> None:
    difference = paired_difference([0.9, 0.5, 0.7], [0.8, 0.5, 0.4])

    # Differences 0.1, 0, 0.3: mean 2/15, variance 7/300; Student's quantile for 2 degrees 4.30265.
    assert difference.mean == pytest.approx(2 / 15)
    assert difference.half_width == pytest.approx(4.30265 * math.sqrt(7 / 300 / 3), rel=1e-5)
    assert difference.method == PAIRED_METHOD


def test_turning_the_pair_turns_the_sign() -> None:
    first, second = [0.2, 0.4, 0.9], [0.3, 0.1, 0.5]
    one, other = paired_difference(first, second), paired_difference(second, first)

    assert one.mean == -other.mean
    assert one.half_width == other.half_width


def test_what_makes_tasks_hard_cancels() -> None:
    """A gain of 1 to 3 points on tasks whose accuracies differ by 80."""
    hardness = np.linspace(0.1, 0.9, 50)
    gain = np.tile([0.01, 0.03], 25)

    difference = paired_difference((hardness + gain).tolist(), hardness.tolist())

    assert difference.mean == pytest.approx(0.02)
    assert difference.half_width < 0.003


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_tasks_that_all_differ_alike_still_leave_doubt(shift: float) -> None:
    difference = paired_difference([0.5 + shift] * 96, [0.5] * 96)

    assert difference.mean == shift
    assert difference.half_width == pytest.approx(1.959964**2 / (96 + 1.959964**2), rel=1e-6)
    assert difference.method == SAME_METHOD


def test_equal_differences_survive_rounding() -> None:
    """3/5 - 2/5 and 2/5 - 1/5 are not the same number: their spread is no sign of certainty."""
    difference = paired_difference([0.6, 0.4, 0.6], [0.4, 0.2, 0.4])

    assert difference.method == SAME_METHOD
    assert difference.half_width > 0.5


def test_tasks_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([0.5, 0.5], [0.5])
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired_difference([], [])
