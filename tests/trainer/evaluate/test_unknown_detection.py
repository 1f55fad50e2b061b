from collections.abc import Callable

import numpy as np
import pytest

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.unknown_detection import (
    area_under_roc,
    detect_unknown,
    false_positive_rate,
)
from kshot.trainer.statistics import SAME_METHOD

Patterns = Callable[..., ImageDataset]


@pytest.mark.parametrize("digits", [1, 2, 16])
def test_the_area_is_scikit_learns_with_and_without_ties(digits: int) -> None:
    """Rounded to one digit most scores are tied; equal within 1e-12."""
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    known = generator.beta(4, 2, size=300).round(digits)
    unknown = generator.beta(2, 2, size=170).round(digits)

    labels = np.repeat([1, 0], [300, 170])
    wanted = metrics.roc_auc_score(labels, np.concatenate([known, unknown]))
    assert area_under_roc(known, unknown) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("known", "unknown", "area"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
        ([1.0, 1.0], [1.0], 0.5),
        ([1.0, 3.0], [1.0, 2.0], 0.625),  # pairs: tie, less; more, more
    ],
)
def test_the_area_counts_pairs_and_half_of_ties(
    known: list[float], unknown: list[float], area: float
) -> None:
    assert area_under_roc(np.array(known), np.array(unknown)) == area


def test_the_false_positive_rate_is_that_at_the_highest_threshold_that_keeps_95_percent() -> None:
    known = np.arange(1.0, 21.0)  # 19 of 20 reach 2

    assert false_positive_rate(known, np.array([0.5, 1.9, 2.0, 30.0])) == 0.5
    assert false_positive_rate(np.ones(20), np.array([1.0, 0.9])) == 0.5
    assert false_positive_rate(known, np.array([0.5, 1.0]), rate=1.0) == 0.5


def test_the_false_positive_rate_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    known, unknown = generator.normal(1, 1, 400), generator.normal(0, 1, 300)
    labels = np.repeat([1, 0], [400, 300])
    false, true, _ = metrics.roc_curve(
        labels, np.concatenate([known, unknown]), drop_intermediate=False
    )

    assert false_positive_rate(known, unknown) == pytest.approx(false[true >= 0.95][0])


def test_an_interval_knows_that_a_tasks_queries_belong_together() -> None:
    """Ten queries that repeat one another say no more than one."""
    generator = np.random.default_rng(2)
    known, unknown = generator.normal(1, 1, (40, 1)), generator.normal(0, 1, (40, 1))
    single = detect_unknown(known, unknown)
    repeated = detect_unknown(known.repeat(10, axis=1), unknown.repeat(10, axis=1))

    assert repeated.auroc == pytest.approx(single.auroc)
    assert repeated.ci95 == pytest.approx(single.ci95)
    assert (repeated.known_count, repeated.unknown_count) == (400, 400)
    assert single.score == "largest probability"


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Scores with a part that a task's queries share; the area of N(1.5, 1 + 1/4) over N(0, ...)
    is about 0.828: 400 repetitions of 60 tasks.
    """
    generator = np.random.default_rng(3)
    truth = 0.8286  # Phi(1.5 / sqrt(2 (1 + 1/4)))
    covered = 0
    for _ in range(400):
        shared = generator.normal(0, 0.5, (60, 1))
        found = detect_unknown(
            generator.normal(1.5, 1, (60, 5)) + shared, generator.normal(0, 1, (60, 5)) + shared
        )
        covered += abs(found.auroc - truth) <= found.ci95

    assert 368 <= covered <= 392  # 92 to 98 %


@pytest.mark.parametrize(("task_count", "half_width"), [(1, 1.0), (96, 2 * 3.841459 / 99.841459)])
def test_tasks_without_a_mistake_still_leave_doubt(task_count: int, half_width: float) -> None:
    """Twice Wilson's bound z^2 / (n + z^2) on the share of tasks that have one."""
    found = detect_unknown(np.full((task_count, 5), 0.9), np.full((task_count, 5), 0.3))

    assert found.auroc == 1
    assert found.ci95 == pytest.approx(half_width, rel=1e-6)
    assert found.ci_method == SAME_METHOD
