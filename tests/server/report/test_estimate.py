"""The estimate of accuracy from left-out logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kshot.server.report.estimate import estimate_accuracy

CLASSES = np.array([0, 0, 0, 1, 1, 1, 2])


def logits_for(answers: list[int]) -> np.ndarray:
    """Return logits `(n, 3)` that answer with these classes."""
    return np.eye(3, dtype=np.float32)[answers] * 4


def test_the_estimate_counts_right_answers_of_classes_with_two_examples() -> None:
    estimate = estimate_accuracy(logits_for([0, 0, 1, 1, 1, 2, 0]), CLASSES, 3)

    assert estimate is not None
    assert estimate.example_count == 6
    assert estimate.accuracy == pytest.approx(1 - 2 / 6 * (2 / 3) ** 0.5)
    assert estimate.confusion.tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 0]]


def test_the_interval_holds_the_accuracy_and_narrows_with_examples() -> None:
    few = estimate_accuracy(logits_for([0, 0, 1, 1, 1, 2, 0]), CLASSES, 3)
    many = estimate_accuracy(
        np.tile(logits_for([0, 0, 1, 1, 1, 2, 0]), (20, 1)), np.tile(CLASSES[:7], 20), 3
    )

    assert few is not None
    assert many is not None
    assert 0 <= few.low < few.accuracy < few.high <= 1
    assert many.high - many.low < (few.high - few.low) / 2


def test_all_right_answers_leave_room_below() -> None:
    estimate = estimate_accuracy(logits_for([0, 0, 0, 1, 1, 1, 2]), CLASSES, 3)

    assert estimate is not None
    assert estimate.accuracy == estimate.high == 1.0
    assert estimate.low < 0.8


def test_logits_that_differ_by_rounding_are_no_answers() -> None:
    """Pictures that are all alike: three classes are right by a third each."""
    logits = np.full((6, 3), -120.0, np.float32)
    logits[np.arange(6), [0, 0, 1, 1, 2, 2]] += 1e-4

    estimate = estimate_accuracy(logits, np.array([0, 0, 1, 1, 2, 2]), 3)

    assert estimate is not None
    assert estimate.accuracy == pytest.approx(1 / 3)


def test_one_example_of_each_class_tells_nothing() -> None:
    assert estimate_accuracy(logits_for([0, 1, 2]), np.array([0, 1, 2]), 3) is None


def test_two_examples_of_one_class_alone_tell_nothing() -> None:
    assert estimate_accuracy(logits_for([0, 0, 1]), np.array([0, 0, 1]), 3) is None


def test_cross_entropy_is_that_of_the_best_scale() -> None:
    """Models with logits of any scale compare; those that tell nothing have that of a guess."""
    logits = np.array([[2, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    classes = np.array([0, 0, 1, 1])

    first, tenfold, blind = (
        estimate_accuracy(given, classes, 2) for given in (logits, 10 * logits, 0 * logits)
    )

    assert first is not None
    assert tenfold is not None
    assert blind is not None
    assert first.cross_entropy == pytest.approx(tenfold.cross_entropy, abs=0.02)
    assert first.cross_entropy < blind.cross_entropy == pytest.approx(np.log(2))


def test_a_model_is_worse_beyond_the_standard_error_of_the_difference() -> None:
    classes = np.array([0, 0, 1, 1])
    right = estimate_accuracy(np.eye(2, dtype=np.float32)[classes], classes, 2)
    blind = estimate_accuracy(np.zeros((4, 2), np.float32), classes, 2)
    assert right is not None
    assert blind is not None
    once_wrong = replace(right, losses=np.array([1.0, 0, 0, 0]))

    assert blind.worse_than(right)
    assert not right.worse_than(blind)
    assert not once_wrong.worse_than(right)
    assert not right.worse_than(right)
