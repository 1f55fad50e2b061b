"""Known scores: shares of the examples that are less like the classes than a query."""

from __future__ import annotations

import numpy as np
import pytest

from kshot.server.report.known import known_scores, reference_scores


def test_references_are_the_strongest_logits_of_examples_with_company() -> None:
    logits = np.array([[1, 0], [0, 3], [2, 5], [9, 9]], np.float32)

    assert reference_scores(logits, np.array([0, 0, 0, 1])).tolist() == [1, 3, 5]


def test_a_threshold_is_the_share_of_known_pictures_below_it() -> None:
    """References and queries from the same distribution: a tenth lies below 0.1."""
    generator = np.random.default_rng(0)
    references = generator.normal(3, 1, 200).astype(np.float32)
    queries = np.zeros((5000, 4), np.float32)
    queries[:, 2] = generator.normal(3, 1, 5000)

    scores = known_scores(queries, references)

    assert (scores < 0.1).mean() == pytest.approx(0.1, abs=0.04)
    assert (scores < 0.5).mean() == pytest.approx(0.5, abs=0.07)


def test_scores_grow_with_the_strongest_logit() -> None:
    references = np.array([1, 2, 3], np.float32)

    scores = known_scores(np.array([[-9, -8], [0, 2], [40, 0]], np.float32), references)

    assert 0 < scores[0] < 0.2 < scores[1] < 0.8 < scores[2] < 1
    assert scores[1] == pytest.approx(0.5)


def test_equal_references_give_finite_scores() -> None:
    scores = known_scores(np.array([[1.0], [2.0]], np.float32), np.ones(3, np.float32))

    assert np.isfinite(scores).all()
