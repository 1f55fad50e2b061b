"""Adapt told apart by steps."""

from __future__ import annotations

import pytest

from kshot.bench.serve.adapt_steps import told_apart
from kshot.bench.serve.load_generator import OK, Answer, Sample
from kshot.v1 import adaptation_pb2 as wire


def adapted(round_trip_ms: float, compute_ms: int, steps: int) -> Sample:
    report = wire.AdaptReport(support_loss=[1.0] * steps)
    response = wire.AdaptResponse(report=report)
    response.timing.compute.FromMilliseconds(compute_ms)
    answer = Answer(OK, response.SerializeToString())
    return Sample(due=0.0, sent=0.0, answered=round_trip_ms / 1e3, answer=answer)


def test_computing_and_the_rest_are_told_apart() -> None:
    refused = Sample(0.0, 0.0, 9.0, Answer("UNAVAILABLE"))
    samples = [adapted(10, 6, 5), adapted(12, 10, 5), adapted(20, 11, 5), refused]

    told = told_apart(None, samples)

    assert told.step_count is None
    assert told.steps_taken == 5
    assert told.overhead.calls == 3
    assert told.overhead.round_trip_ms.p50 == pytest.approx(12)
    assert told.overhead.compute_ms.p50 == pytest.approx(10)
    assert told.overhead.over_compute_ms.p50 == pytest.approx(4)
    assert told.timing_ms.rest == pytest.approx(4)


def test_refused_calls_alone_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="expected at least one answer, got none"):
        told_apart(5, [Sample(0.0, 0.0, 1.0, Answer("UNAVAILABLE"))])
