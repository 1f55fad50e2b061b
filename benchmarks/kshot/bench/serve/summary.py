"""Summaries of loads; their fields are those of the JSON document."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import median

from kshot.bench.serve.load_generator import OK, Load, Sample
from kshot.bench.serve.process_usage import Cpu
from kshot.bench.speed.timing import Percentiles, percentiles
from kshot.v1 import adaptation_pb2 as wire

Response = type[wire.AdaptResponse] | type[wire.PredictResponse]


@dataclass(frozen=True)
class Split:
    """Milliseconds of a call in the server's four phases, and the rest of its round trip.

    The rest is transport, the load generator, the wait until the front reads the call, and the
    front's work outside the phases, such as digests.
    """

    queue: float
    decode: float
    compute: float
    store: float
    rest: float


@dataclass(frozen=True)
class LoadSummary:
    """One load: percentiles and split are of the answered calls, None when there are none.

    `latency_ms` counts from the time that a call was due. `timing_ms` holds the median of each
    part, so its sum is near the median latency, not equal to it. `generator_cpu` is the load
    generator's share of a core: near 1, the generator limits the load and not the server.
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
class ClosedLoop:
    """Callers that each send the next call when the last is answered.

    `cpu_per_call` is the processor time of the server's processes per answer, None where the server
    is not the bench's own. Unlike latency it hardly depends on the machine's other work.
    """

    concurrency: int
    load: LoadSummary
    cpu_per_call: Cpu | None


@dataclass(frozen=True)
class OpenLoop:
    """Calls that arrive at a rate, regardless of unanswered calls.

    `lateness_ms` is how long after its due time the generator sent a call; latency includes it.
    """

    arrivals: str
    rate: float
    lateness_ms: Percentiles
    load: LoadSummary


@dataclass(frozen=True)
class MethodLoads:
    """The loads of one method."""

    closed: tuple[ClosedLoop, ...]
    open: OpenLoop


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of Adapt beyond the engine's computing, for one caller alone.

    `over_compute_ms` is the round trip without the computing. `over_compute_and_queue_ms` excludes
    the queue too, which includes the transfer to the engine and back.
    """

    calls: int
    round_trip_ms: Percentiles
    compute_ms: Percentiles
    over_compute_ms: Percentiles
    over_compute_and_queue_ms: Percentiles


@dataclass(frozen=True)
class BesideAdapt:
    """One caller that predicts while others adapt without pause.

    Ratios and differences are to the same caller alone, in turns with this load.
    """

    adapting_callers: int
    adaptations_per_second: float
    load: LoadSummary
    p50_ratio: float
    p99_ratio: float
    p50_difference_ms: float
    p99_difference_ms: float


def answered(samples: Sequence[Sample]) -> list[Sample]:
    """Return the calls that succeeded."""
    return [sample for sample in samples if sample.answer.code == OK]


def summarize(load: Load, response: Response) -> LoadSummary:
    """Summarize a load whose answers are of one type."""
    done = answered(load.samples)
    errors = Counter(sample.answer.code for sample in load.samples if sample.answer.code != OK)
    parts = zip(*(astuple(_split(sample, response)) for sample in done), strict=True)
    return LoadSummary(
        calls=len(load.samples),
        answered=len(done),
        errors=dict(sorted(errors.items())),
        seconds=load.seconds,
        calls_per_second=len(done) / load.seconds if load.seconds > 0 else 0.0,
        latency_ms=percentiles([sample.latency_ms for sample in done]) if done else None,
        timing_ms=Split(*(median(part) for part in parts)) if done else None,
        generator_cpu=load.generator_cpu,
    )


def overhead(samples: Sequence[Sample]) -> Overhead | None:
    """Compare the round trips of Adapt with its computing; None when no call was answered."""
    pairs = [
        (sample.round_trip_ms, _split(sample, wire.AdaptResponse)) for sample in answered(samples)
    ]
    if not pairs:
        return None
    return Overhead(
        calls=len(pairs),
        round_trip_ms=percentiles([total for total, _ in pairs]),
        compute_ms=percentiles([split.compute for _, split in pairs]),
        over_compute_ms=percentiles([total - split.compute for total, split in pairs]),
        over_compute_and_queue_ms=percentiles(
            [total - split.compute - split.queue for total, split in pairs]
        ),
    )


def compute_paths(samples: Sequence[Sample]) -> dict[str, int]:
    """Count answers of Adapt by the step that computed them, as `PATH in slot bucket N`."""
    reports = (
        wire.AdaptResponse.FromString(sample.answer.content).report for sample in answered(samples)
    )
    counted = Counter(
        f"{report.compute_path} in slot bucket {report.slot_bucket}" for report in reports
    )
    return dict(sorted(counted.items()))


def _split(sample: Sample, response: Response) -> Split:
    timing = response.FromString(sample.answer.content).timing
    queue, decode, compute, store = (
        span.ToNanoseconds() / 1e6
        for span in (timing.queue, timing.decode, timing.compute, timing.store)
    )
    rest = sample.round_trip_ms - (queue + decode + compute + store)
    return Split(queue, decode, compute, store, rest)
