"""Warnings about a support set: its counts, its pictures, its number of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kshot.bundle import Head, HeadPolicy, InputSpec, Manifest
from kshot.server.report.support_warnings import support_warnings
from kshot.server.request.options import AdaptOptions

Warn = Callable[..., list[str]]


def pictures(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((count, 1, 28, 28), np.float32)


@pytest.fixture
def warn(manifest: Manifest, make_model: Callable[..., Any]) -> Warn:
    """Return the warnings of a support set with so many examples of each class."""
    made: AdaptOptions = make_model().options

    def call(
        counts: list[int],
        images: np.ndarray[Any, Any] | None = None,
        manifest: Manifest = manifest,
        **options: object,
    ) -> list[str]:
        classes = np.repeat(np.arange(len(counts)), counts)
        given = pictures(len(classes)) if images is None else images
        names = [f"c{index}" for index in range(len(counts))]
        chosen = replace(made, **options)  # type: ignore[arg-type]  # options of any type
        return list(support_warnings(given, classes, names, manifest, chosen))

    return call


def test_an_even_support_set_has_no_warning(warn: Warn) -> None:
    assert warn([1] * 5) == warn([5] * 10) == warn([3, 11]) == []


def test_the_largest_class_is_named_beside_the_smallest(warn: Warn) -> None:
    (sentence,) = warn([5, 20, 8])

    assert "class 'c1' has 20 examples and class 'c0' 5;" in sentence
    assert sentence.endswith("give the smaller classes more, or set options.balance_classes")


@pytest.mark.parametrize(
    "options", [{"balance_classes": True}, {"head": Head.PROTOTYPE, "step_count": 0}]
)
def test_balancing_is_named_where_it_would_help(warn: Warn, options: dict[str, object]) -> None:
    (sentence, *_) = warn([5, 20, 8], **options)

    assert sentence.endswith("give the smaller classes more")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"head": Head.PROTOTYPE, "step_count": 0}, True),
        ({"head": Head.PROTOTYPE, "step_count": 0, "estimate": False}, False),
        ({"head": Head.PROTOTYPE}, False),
        ({"head": Head.TRAINED}, False),
    ],
)
def test_classes_with_one_example_have_no_estimate(
    warn: Warn, options: dict[str, object], expected: bool
) -> None:
    """Only where the others have one."""
    found = warn([1, 1, 2], **options)

    assert ["2 of 3 classes have one example" in sentence for sentence in found] == (
        [True] if expected else []
    )


def test_pictures_of_one_colour_are_counted(warn: Warn) -> None:
    some = pictures(6)
    some[[1, 4]] = 0.4
    every = np.full((4, 1, 28, 28), 0.1, np.float32)
    every[0] = 0.3

    large = some.repeat(4, axis=2).repeat(4, axis=3)
    large[1, 0, 50, 51] = 0.9

    assert "1 of 6 pictures are of one colour" in warn([2, 2, 2], large)[0]
    assert "2 of 6 pictures are of one colour" in warn([2, 2, 2], some)[0]
    (only,) = warn([2, 2], every)
    assert "4 of 4 pictures are of one colour" in only


def test_examples_that_are_all_alike_are_noticed(warn: Warn, manifest: Manifest) -> None:
    """Pictures up to a few shades of gray, vectors exactly."""
    alike = (
        pictures(1).repeat(4, axis=0)
        + np.linspace(0, 0.01, 4, dtype=np.float32)[:, None, None, None]
    )
    vectors = replace(manifest, input=InputSpec((6, 1, 1), ()))
    same = np.ones((4, 6, 1, 1), np.float32)
    nearly = same.copy()
    nearly[0, 0] = 1.0001

    assert "all 4 examples are nearly the same" in warn([2, 2], alike)[0]
    assert "all 4 examples are nearly the same" in warn([2, 2], same, vectors)[0]
    assert warn([2, 2], nearly, vectors) == []


def test_far_more_classes_than_at_training_are_too_many(warn: Warn, manifest: Manifest) -> None:
    """For rows that meta-training left; class means know nothing of its number of classes."""
    without = replace(manifest, head=HeadPolicy(Head.TRAINED, (Head.TRAINED,)))
    built = replace(manifest, provenance=replace(manifest.provenance, meta_iterations=0))

    (sentence,) = warn([1] * 11)

    assert "11 classes are far more than the 5" in sentence
    assert sentence.endswith("try head prototype or another model")
    assert warn([1] * 11, manifest=without)[0].endswith("try another model")
    assert warn([1] * 10) == warn([1] * 11, manifest=built) == []
    assert warn([1] * 11, head=Head.PROTOTYPE) == []
