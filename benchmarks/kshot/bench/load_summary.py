"""What a load amounts to: percentiles, calls per second, errors by code, the server's split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from kshot.bench.load import OK, Load, Sample
from kshot.bench.timing import median, percentiles
from kshot.v1 import adaptation_pb2 as wire

PHASES = ("queue", "decode", "compute", "store")

Document = dict[str, object]
Response = TypeVar("Response", wire.AdaptResponse, wire.PredictResponse)


def summarize(load: Load, response: type[wire.AdaptResponse | wire.PredictResponse]) -> Document:
    """Lay out a load for JSON; `latency_ms` and `timing_ms` are None when no call was answered.

    Latency counts from the time that a call was due. The split is the server's own, medians of all
    answers; `rest` is the median of what the round trip took beyond it: transport and the
    generator.
    """
    answered = [sample for sample in load.samples if sample.answer.code == OK]
    errors = Counter(sample.answer.code for sample in load.samples if sample.answer.code != OK)
    document: Document = {
        "calls": len(load.samples),
        "answered": len(answered),
        "errors": dict(sorted(errors.items())),
        "seconds": load.seconds,
        "calls_per_second": len(answered) / load.seconds if load.seconds > 0 else 0.0,
        "latency_ms": None,
        "timing_ms": None,
        "generator_cpu": load.generator_cpu,
    }
    if answered:
        latencies = [sample.latency_ms for sample in answered]
        document["latency_ms"] = percentiles(latencies).document()
        document["timing_ms"] = _split(answered, response)
    return document


def overhead(samples: Sequence[Sample]) -> Document | None:
    """Tell what Adapt takes beyond the engine's computing, from calls that were not to queue.

    `over_compute_ms` is the round trip without the computing, `over_compute_and_queue_ms` that
    without the queue either: waiting for the engine and the transfer to it. None when no call was
    answered.
    """
    round_trips, computes, queues = [], [], []
    for sample in samples:
        if sample.answer.code == OK:
            timing = wire.AdaptResponse.FromString(sample.answer.content).timing
            round_trips.append(sample.round_trip_ms)
            computes.append(_milliseconds(timing, "compute"))
            queues.append(_milliseconds(timing, "queue"))
    if not round_trips:
        return None
    over_compute = [total - compute for total, compute in zip(round_trips, computes, strict=True)]
    over_both = [over - queue for over, queue in zip(over_compute, queues, strict=True)]
    return {
        "calls": len(round_trips),
        "round_trip_ms": percentiles(round_trips).document(),
        "compute_ms": percentiles(computes).document(),
        "over_compute_ms": percentiles(over_compute).document(),
        "over_compute_and_queue_ms": percentiles(over_both).document(),
    }


def compute_paths(samples: Sequence[Sample]) -> dict[str, int]:
    """Count the answers of Adapt by what ran them: the compute path and its slot bucket."""
    reports = (
        wire.AdaptResponse.FromString(sample.answer.content).report
        for sample in samples
        if sample.answer.code == OK
    )
    counted = Counter(f"{report.compute_path}/{report.slot_bucket}" for report in reports)
    return dict(sorted(counted.items()))
