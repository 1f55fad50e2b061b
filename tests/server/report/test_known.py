"""Known scores: shares of the examples that are less like the classes than a query."""

from __future__ import annotations

import numpy as np
import pytest

from kshot.server.report.known import (
    all_may_be_left_out,
    known_scores,
    least_threshold,
    strengths,
)


def with_odds(odds: np.ndarray) -> np.ndarray:
    """Return logits of two classes whose best has these log-odds."""
    return np.stack([np.zeros_like(odds), odds], axis=1).astype(np.float32)


def test_strengths_are_the_log_odds_of_the_best_class() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], np.float32))

    expected = np.log([0.7 / 0.3, 1.0])

    assert strengths(logits) == pytest.approx(expected, abs=1e-6)
    assert strengths(logits + 1000) == pytest.approx(expected, abs=1e-3)


def test_novelty_counts_against_a_query() -> None:
    logits = with_odds(np.array([3.0, 3.0]))
    novelties = np.array([-0.5, 0.5], np.float32)

    assert strengths(logits, novelties) == pytest.approx([5.5, 0.5])
    near, far = known_scores(logits, np.arange(8, dtype=np.float32), novelties)
    assert near > 0.6 > 0.3 > far


def test_each_class_needs_two_examples() -> None:
    assert all_may_be_left_out(np.array([0, 0, 1, 1]), way=2)
    assert not all_may_be_left_out(np.array([0, 0, 0, 1]), way=2)
    assert not all_may_be_left_out(np.array([0, 0, 1, 1]), way=3)


def test_a_threshold_is_the_share_of_known_pictures_below_it() -> None:
    """References and queries from the same distribution: a tenth lies below 0.1."""
    generator = np.random.default_rng(0)
    references = generator.normal(3, 1, 200).astype(np.float32)
    queries = with_odds(generator.normal(3, 1, 5000))

    scores = known_scores(queries, references)

    assert (scores < 0.1).mean() == pytest.approx(0.1, abs=0.04)
    assert (scores < 0.5).mean() == pytest.approx(0.5, abs=0.07)


def test_scores_grow_with_the_odds() -> None:
    references = np.array([1, 2, 3], np.float32)

    scores = known_scores(with_odds(np.array([0.01, 2.0, 40.0])), references)

    assert least_threshold(references) <= scores[0] < 0.2 < scores[1] < 0.8 < scores[2] < 1
    assert scores[1] == pytest.approx(0.5)


def test_equal_references_give_finite_scores() -> None:
    scores = known_scores(with_odds(np.array([1.0, 2.0])), np.ones(3, np.float32))

    assert np.isfinite(scores).all()
