"""Candidates are adapted one after another, within the caller's time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import Head
from kshot.server.adaptation import AdaptResult
from kshot.server.call_context import begin_call, current_call
from kshot.server.choice import Candidate, adapt_best
from kshot.server.errors import AdaptationDiverged, DeadlineExceeded
from kshot.server.report.estimate import AccuracyEstimate

ENTROPIES = {"a": 0.7, "b": 0.2, "c": 0.5}


def candidates(*, allow_partial: bool = False) -> list[Candidate]:
    options = SimpleNamespace(
        head=Head.PROTOTYPE, step_count=0, allow_partial=allow_partial, folds_wanted=False
    )
    engine_task = SimpleNamespace(options=options, class_indices=(0, 0, 1, 1))
    return [
        Candidate(
            cast(Any, SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(name=name)))),
            cast(Any, SimpleNamespace(engine_task=engine_task)),
        )
        for name in ENTROPIES
    ]


async def no_pictures() -> None:
    return None


def chosen(
    given: list[Candidate], *, seconds: float | None = None, **failures: Exception | None
) -> tuple[str, list[str]]:
    """Return the best candidate, and which have an estimate; None for a failure never ends."""

    async def run(candidate: Candidate) -> tuple[Candidate, AdaptResult]:
        if candidate.name in failures:
            if (failure := failures[candidate.name]) is None:
                await asyncio.Event().wait()
            else:
                raise failure
        losses = np.full(4, ENTROPIES[candidate.name])
        estimate = AccuracyEstimate(1.0, 0.5, 1.0, 4, np.eye(2, dtype=np.int64), losses)
        parts: dict[str, Any] = dict.fromkeys(AdaptResult.__dataclass_fields__)
        return candidate, AdaptResult(**{**parts, "estimate": estimate})

    begin_call("Adapt", seconds)
    best, result = asyncio.run(adapt_best(given, no_pictures, run))
    assert [name for name, _ in result.chosen_from] == list(ENTROPIES)
    return best.name, [name for name, estimate in result.chosen_from if estimate]


def test_the_least_cross_entropy_is_best() -> None:
    assert chosen(candidates()) == ("b", ["a", "b", "c"])


def test_one_that_diverges_takes_no_part() -> None:
    diverged = AdaptationDiverged(1, 0.1)

    assert chosen(candidates(), b=diverged) == ("c", ["a", "c"])
    with pytest.raises(AdaptationDiverged):
        chosen(candidates(), a=diverged, b=diverged, c=diverged)


def test_a_partial_answer_takes_the_best_so_far() -> None:
    late = DeadlineExceeded()

    assert chosen(candidates(allow_partial=True), b=late) == ("a", ["a"])
    (warning,) = current_call().support_warnings
    assert "before b, c could be tried, so a may not be the best" in warning
    for given, failing in ((candidates(), "c"), (candidates(allow_partial=True), "a")):
        with pytest.raises(DeadlineExceeded):
            chosen(given, **{failing: late})


def test_a_partial_answer_does_not_wait_for_one_that_runs() -> None:
    """Such as one whose encoder is busy: nothing but the deadline ends that."""
    assert chosen(candidates(allow_partial=True), seconds=0.5, c=None) == ("b", ["a", "b"])
    (warning,) = current_call().support_warnings
    assert "before c could be tried" in warning
