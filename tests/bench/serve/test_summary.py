"""Summaries of loads."""

import pytest

from kshot.bench.serve.load_generator import OK, Answer, Load, Sample
from kshot.bench.serve.summary import compute_paths, overhead, summarize
from kshot.v1 import adaptation_pb2 as wire


def timing(**milliseconds: int) -> wire.Timing:
    message = wire.Timing()
    for phase, value in milliseconds.items():
        getattr(message, phase).FromMilliseconds(value)
    return message


def adapted(round_trip_ms: float, bucket: int = 1, **milliseconds: int) -> Sample:
    """An answer to Adapt that was due half a second before it was sent."""
    report = wire.AdaptReport(compute_path="compiled", slot_bucket=bucket)
    response = wire.AdaptResponse(timing=timing(**milliseconds), report=report)
    answer = Answer(OK, response.SerializeToString())
    return Sample(due=0.0, sent=0.5, answered=0.5 + round_trip_ms / 1e3, answer=answer)


def refused(code: str) -> Sample:
    return Sample(due=0.0, sent=0.0, answered=9.0, answer=Answer(code))


def test_latency_is_of_answers_only() -> None:
    samples = [adapted(100 + number) for number in range(101)]
    errors = [refused("UNAVAILABLE"), refused("DEADLINE_EXCEEDED"), refused("UNAVAILABLE")]

    summary = summarize(Load((*samples, *errors), 2.0, 0.25), wire.AdaptResponse)

    assert (summary.calls, summary.answered) == (104, 101)
    assert summary.errors == {"DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 2}
    assert summary.calls_per_second == 101 / 2
    assert summary.generator_cpu == 0.25
    assert summary.latency_ms is not None
    assert summary.latency_ms.p50 == pytest.approx(500 + 150)
    assert summary.latency_ms.p95 == pytest.approx(500 + 195)
    assert summary.latency_ms.p99 == pytest.approx(500 + 199)


def test_the_rest_is_outside_the_servers_phases() -> None:
    sample = adapted(100, queue=10, decode=2, compute=70, store=8)

    split = summarize(Load((sample,), 1.0, 0.0), wire.AdaptResponse).timing_ms

    assert split is not None
    assert (split.queue, split.decode, split.compute, split.store) == (10, 2, 70, 8)
    assert split.rest == pytest.approx(10)


def test_answers_to_predict_are_split_too() -> None:
    response = wire.PredictResponse(timing=timing(compute=3))
    sample = Sample(0.0, 0.0, 0.005, Answer(OK, response.SerializeToString()))

    split = summarize(Load((sample,), 1.0, 0.0), wire.PredictResponse).timing_ms

    assert split is not None
    assert split.compute == 3
    assert split.rest == pytest.approx(2)


def test_a_load_without_answers_has_no_percentiles() -> None:
    summary = summarize(Load((refused("INTERNAL"),), 1.0, 0.0), wire.AdaptResponse)

    assert summary.latency_ms is None
    assert summary.timing_ms is None
    assert summary.calls_per_second == 0
    assert overhead([refused("INTERNAL")]) is None


def test_overhead_is_each_calls_own() -> None:
    """Medians of differences: the slow call computed longer without more overhead."""
    samples = [
        adapted(60, queue=4, compute=50),
        adapted(111, queue=5, compute=100),
        adapted(60, queue=4, compute=50),
        refused("UNAVAILABLE"),
    ]

    found = overhead(samples)

    assert found is not None
    assert found.calls == 3
    assert found.over_compute_ms.p50 == pytest.approx(10)
    assert found.over_compute_and_queue_ms.p50 == pytest.approx(6)
    assert found.over_compute_ms.p99 == pytest.approx(11, abs=0.05)


def test_answers_are_counted_by_compute_path() -> None:
    samples = [adapted(1), adapted(1, bucket=4), adapted(1), refused("UNAVAILABLE")]

    assert compute_paths(samples) == {
        "compiled in slot bucket 1": 2,
        "compiled in slot bucket 4": 1,
    }
