"""Novelty: how far features lie from all that a support set spans."""

from __future__ import annotations

import numpy as np
import pytest

from kshot.server.report.known import known_scores, least_threshold, strengths
from kshot.server.report.novelty import SupportSpan, span_from, span_of

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
WAY, SIZES = 4, (30, 20)
PENALTY = 0.1


def around(centers: Floats, shot: int, seed: int, spread: float = 0.3) -> Floats:
    """Draw `shot` neighbours of each row, row by row."""
    rows = centers.repeat(shot, axis=0)
    noise = np.random.default_rng(seed).normal(size=rows.shape)
    return (rows + spread * noise).astype(np.float32)


def centers(count: int = WAY, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, sum(SIZES))).astype(np.float32)


def labels(shot: int, way: int = WAY) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.arange(way).repeat(shot)


def test_left_out_novelties_are_those_of_a_fit_to_the_others() -> None:
    """With the centre and the size of all, as head `ridge` has them."""
    features = around(centers(), 3, seed=1)

    _, novelties = span_of(features, labels(3), (sum(SIZES),))

    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows = rows - rows.mean(axis=0)
    kernel = rows @ rows.T / (rows**2).sum(axis=1).mean() + 1 / len(rows)
    for out in range(len(rows)):
        rest = np.delete(np.arange(len(rows)), out)
        noisy = kernel[np.ix_(rest, rest)] + PENALTY * np.eye(len(rest))
        explained = kernel[out, rest] @ np.linalg.solve(noisy, kernel[rest, out])
        assert novelties[out] == pytest.approx(np.log(kernel[out, out] - explained), abs=1e-4)


def test_unknown_classes_are_more_novel_than_known_ones() -> None:
    known, unknown = centers(), centers(seed=9)
    span, left_out = span_of(around(known, 5, seed=1), labels(5), SIZES)

    of_known, of_unknown = (span.novelties(around(each, 20, seed=2)) for each in (known, unknown))

    assert of_known.max() < of_unknown.min()
    assert left_out.mean() == pytest.approx(of_known.mean(), abs=0.1)


def test_lengths_of_features_do_not_count() -> None:
    features, queries = around(centers(), 3, seed=1), around(centers(), 2, seed=2)

    plain, scaled = (span_of(scale * features, labels(3), SIZES) for scale in (1, 1000))

    np.testing.assert_allclose(scaled[1], plain[1], atol=1e-4)
    np.testing.assert_allclose(
        scaled[0].novelties(50 * queries), plain[0].novelties(queries), atol=5e-3
    )


def test_blocks_that_tell_unknown_classes_weigh_more() -> None:
    """Noise and a constant tell nothing."""
    told = around(centers(), 5, seed=1)
    noise = np.random.default_rng(3).normal(size=told.shape).astype(np.float32)
    features = np.concatenate([noise, told, np.ones_like(told)], axis=1)

    span, _ = span_of(features, labels(5), (50, 50, 50))

    assert span.weights.sum() == pytest.approx(1)
    assert span.weights[1] > 0.9
    assert span.weights[2] < 1e-6


def test_at_most_five_examples_of_a_class_are_anchors() -> None:
    """The others are judged as queries are."""
    features = around(centers(), 8, seed=1)

    span, novelties = span_of(features, labels(8), SIZES)

    others = np.arange(len(features)) % 8 >= 5
    assert span.basis.shape == (5 * WAY, sum(SIZES))
    np.testing.assert_allclose(span.novelties(features[others]), novelties[others], atol=5e-3)


@pytest.mark.parametrize("rounding", [0, 1e-5])
def test_where_all_examples_are_one_picture_it_is_known_and_others_are_not(rounding: float) -> None:
    """A network gives it nearly the same features each time."""
    one = np.random.default_rng(4).normal(size=sum(SIZES))
    noise = np.random.default_rng(5).normal(size=(11, sum(SIZES)))
    features = (one * (1 + rounding * noise)).astype(np.float32)

    span, novelties = span_of(features[:10], labels(5, way=2), SIZES)

    queries = np.stack([features[10], -features[0], 0 * features[0]])
    logits = np.zeros((10, 2), np.float32)
    references = strengths(logits, novelties)
    same, other, empty = known_scores(logits[:3], references, span.novelties(queries))
    assert same > 0.4
    assert other == pytest.approx(least_threshold(references), abs=1e-3)
    assert np.isfinite(empty)


def test_a_span_is_made_again_of_its_arrays() -> None:
    span, _ = span_of(around(centers(), 2, seed=1), labels(2), SIZES)
    queries = around(centers(), 2, seed=2).reshape(-1, sum(SIZES), 1, 1)

    again = span_from(vars(span))

    assert isinstance(again, SupportSpan)
    assert again.novelties(queries).tolist() == span.novelties(queries).tolist()
    assert span_from({}) is None
