import pytest

from studies.pictures.tail.records import FINE_WEIGHTS, TailTask
from studies.pictures.tail.result import SHIPPED, tail_rows


def task(head: int, right: int, likeness: float = 0.6) -> TailTask:
    """Return a task of ten queries that any weight above 0 answers alike."""
    correct = (head, *[right] * (len(FINE_WEIGHTS) - 1))
    return TailTask(likeness, head, 0.3, right, correct, (), 1.5)


def test_rows_are_paired_differences_and_their_mean() -> None:
    twenty = {
        0: {"waste": task(5, 5), "grocery": task(5, 7)},
        1: {"waste": task(6, 6), "grocery": task(6, 7)},
        4: {"waste": task(5, 5), "grocery": task(5, 5)},
    }
    ten = {4: twenty[4], 5: twenty[0]}

    rows = tail_rows({(1, "20-steps", SHIPPED): twenty, (1, "10-steps", SHIPPED): ten}, 10)

    waste, grocery, mean, common = rows[:4]
    trials = [f"{name}-1shot" for name in ("waste", "grocery", "mean", "common")]
    assert [row["trial"] for row in rows] == [*trials, *trials]
    assert waste["ahead_ci95"] is None
    assert [row["tasks"] for row in rows[3::4]] == [1, 1]
    assert common["accuracy"] == 0.5
    assert (waste["ahead"], grocery["ahead"], mean["ahead"]) == (0, 0.1, 0.05)
    assert (mean["head"], mean["accuracy"]) == pytest.approx((0.53333, 0.58333), abs=1e-5)
    # Student's interval of 0.1, 0.05 and 0: the i-th tasks of all sets are one
    assert mean["ahead_ci95"] == pytest.approx(0.12421, abs=1e-5)
    assert (mean["tasks"], mean["seconds"], mean["adapted"]) == (3, 1.5, 1.0)
    assert mean["left_out"] == 0.05
