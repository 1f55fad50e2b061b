import math

import numpy as np
import pytest

from kshot.trainer.statistics import (
    T_METHOD,
    WILSON_METHOD,
    accuracy_interval,
    calibration_error,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # Printed in every table of Student's distribution, two-sided 95 %.
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (29, 2.04523), (999, 1.96234)],
)
def test_student_quantiles_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert student_t_quantile(degrees) == pytest.approx(quantile, rel=3e-6)


def test_the_interval_is_that_of_the_task_means() -> None:
    interval = accuracy_interval(np.array([1, 2, 3]), 4)

    assert interval.mean == pytest.approx(0.5)
    assert interval.half_width == pytest.approx(4.30265 * 0.25 / math.sqrt(3), rel=1e-5)
    assert interval.method == T_METHOD


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """A thousand repetitions of 50 tasks whose difficulty varies: 95 % of the intervals cover."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        difficulty = generator.beta(8, 2, size=50)
        interval = accuracy_interval(generator.binomial(5, difficulty), 5)
        covered += abs(interval.mean - 0.8) <= interval.half_width

    assert 925 <= covered <= 975


def test_tasks_that_all_agree_still_leave_doubt() -> None:
    interval = accuracy_interval(np.array([5, 5, 5]), 5)

    assert interval.mean == 1
    # Wilson with 15 of 15: the lower end is n / (n + z^2).
    assert 1 - interval.half_width == pytest.approx(15 / (15 + 1.959964**2), rel=1e-6)
    assert interval.method == WILSON_METHOD


def test_one_task_is_counted_by_its_queries() -> None:
    assert accuracy_interval(np.array([3]), 5).method == WILSON_METHOD


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    confidence, correct = np.array([0.9, 0.9, 0.6, 1.0]), np.array([True, False, True, True])

    # Bins hold {0.9, 0.9}: gap 0.4; {0.6}: gap 0.4; {1.0}: gap 0.
    assert calibration_error(confidence, correct) == pytest.approx((2 * 0.4 + 0.4) / 4)


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error(np.ones(4), np.ones(4, dtype=bool)) == 0
