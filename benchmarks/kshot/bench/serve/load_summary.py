"""What a load amounts to: percentiles, calls per second, errors by code, the server's own split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.bench.serve.load import OK, Load, Sample
from kshot.bench.speed.timing import Percentiles, median, percentiles
from kshot.v1 import adaptation_pb2 as wire

Response = type[wire.AdaptResponse] | type[wire.PredictResponse]


@dataclass(frozen=True)
class Split:
    """Where the time of a call went, in ms: the server's four phases, and the rest.

    The rest is what the round trip took beyond them: transport, the generator's own part, waiting
    until the front begins with the call, and what it does in no phase, such as making digests.
    """

    queue: float
    decode: float
    compute: float
    store: float
    rest: float


@dataclass(frozen=True)
class LoadSummary:
    """One load: percentiles and split are of the calls answered, None when there are none.

    `latency_ms` counts from the time that a call was due. `timing_ms` holds the median of each
    part, so its sum is near the median latency, not equal to it. `generator_cpu` is the share of a
    core that the generator took: near 1, the load was limited by it and not by the server.
    """

    calls: int
    answered: int
    errors: Mapping[str, int]
    seconds: float
    calls_per_second: float
    latency_ms: Percentiles | None
    timing_ms: Split | None
    generator_cpu: float


@dataclass(frozen=True)
class Overhead:
    """What Adapt takes beyond the engine's computing, in ms, of calls that nobody was ahead of.

    `over_compute_ms` is the round trip without the computing; `over_compute_and_queue_ms` that
    without the queue either, which holds the way to the engine and back.
    """

    calls: int
    round_trip_ms: Percentiles
    compute_ms: Percentiles
    over_compute_ms: Percentiles
    over_compute_and_queue_ms: Percentiles


def summarize(load: Load, response: Response) -> LoadSummary:
    """Count and weigh the calls of a load, whose answers are of one type."""
    answered = _answered(load.samples)
    errors = Counter(sample.answer.code for sample in load.samples if sample.answer.code != OK)
    latencies = [sample.latency_ms for sample in answered]
    splits = [_split(sample, response) for sample in answered]
    return LoadSummary(
        calls=len(load.samples),
        answered=len(answered),
        errors=dict(sorted(errors.items())),
        seconds=load.seconds,
        calls_per_second=len(answered) / load.seconds if load.seconds > 0 else 0.0,
        latency_ms=percentiles(latencies) if latencies else None,
        timing_ms=_medians(splits) if splits else None,
        generator_cpu=load.generator_cpu,
    )


def overhead(samples: Sequence[Sample]) -> Overhead | None:
    """Compare the round trips of Adapt with its computing; None when none was answered."""
    answered = _answered(samples)
    if not answered:
        return None
    round_trips = [sample.round_trip_ms for sample in answered]
    splits = [_split(sample, wire.AdaptResponse) for sample in answered]
    pairs = list(zip(round_trips, splits, strict=True))
    return Overhead(
        calls=len(answered),
        round_trip_ms=percentiles(round_trips),
        compute_ms=percentiles([split.compute for split in splits]),
        over_compute_ms=percentiles([total - split.compute for total, split in pairs]),
        over_compute_and_queue_ms=percentiles(
            [total - split.compute - split.queue for total, split in pairs]
        ),
    )


def compute_paths(samples: Sequence[Sample]) -> dict[str, int]:
    """Count answers of Adapt by what ran them, as `PATH in slot bucket N`."""
    reports = (
        wire.AdaptResponse.FromString(sample.answer.content).report for sample in _answered(samples)
    )
    counted = Counter(
        f"{report.compute_path} in slot bucket {report.slot_bucket}" for report in reports
    )
    return dict(sorted(counted.items()))


def _answered(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.answer.code == OK]


def _split(sample: Sample, response: Response) -> Split:
    timing = response.FromString(sample.answer.content).timing
    queue, decode, compute, store = (
        span.ToNanoseconds() / 1e6
        for span in (timing.queue, timing.decode, timing.compute, timing.store)
    )
    rest = sample.round_trip_ms - (queue + decode + compute + store)
    return Split(queue, decode, compute, store, rest)


def _medians(splits: Sequence[Split]) -> Split:
    return Split(
        queue=median([split.queue for split in splits]),
        decode=median([split.decode for split in splits]),
        compute=median([split.compute for split in splits]),
        store=median([split.store for split in splits]),
        rest=median([split.rest for split in splits]),
    )
