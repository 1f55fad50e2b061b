"""What `kshot bench serve` measures; JSON has these fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.bench.serve.load import OK, Load, Sample
from kshot.bench.serve.load_summary import LoadSummary, Overhead, summarize
from kshot.bench.serve.usage import Cpu
from kshot.bench.speed.timing import Percentiles
from kshot.v1 import adaptation_pb2 as wire


@dataclass(frozen=True)
class ClosedLoop:
    """Callers who each send the next call when the last is answered.

    `cpu_per_call` is the processor time of the server's processes for each answer; None where the
    server is not the bench's own. Unlike latency it hardly depends on what else the machine does.
    """

    concurrency: int
    load: LoadSummary
    cpu_per_call: Cpu | None


@dataclass(frozen=True)
class OpenLoop:
    """Calls that arrive at a rate, whatever is unanswered.

    `lateness_ms` tells how long after its time the generator sent a call; latency includes it.
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
class BesideAdapt:
    """One caller who predicts while others adapt without pause, and what that costs.

    Ratios and differences are to the same caller alone, in turns with this.
    """

    adapting_callers: int
    adaptations_per_second: float
    load: LoadSummary
    p50_ratio: float
    p99_ratio: float
    p50_difference_ms: float
    p99_difference_ms: float


@dataclass(frozen=True)
class ServeResult:
    """All that was measured; `adapt_overhead` is None where no load had one caller alone."""

    adapt: MethodLoads
    predict: MethodLoads
    adapt_overhead: Overhead | None
    compute_paths: Mapping[str, int]
    predict_beside_adapt: tuple[BesideAdapt, ...]


@dataclass(frozen=True)
class Turn:
    """A load of predictions, and the adaptations that ran beside it for so many seconds."""

    predictions: Load
    adaptations: Sequence[Sample]
    seconds: float


def compare(alone: Load, predictions: Load, turns: Sequence[Turn], callers: int) -> BesideAdapt:
    """Compare predictions beside adaptations with the same alone; some of each are answered."""
    summary = summarize(predictions, wire.PredictResponse)
    beside, reference = summary.latency_ms, summarize(alone, wire.PredictResponse).latency_ms
    if beside is None or reference is None:
        raise ValueError("nothing to compare: no call was answered")
    adapted = sum(sample.answer.code == OK for turn in turns for sample in turn.adaptations)
    return BesideAdapt(
        adapting_callers=callers,
        adaptations_per_second=adapted / sum(turn.seconds for turn in turns),
        load=summary,
        p50_ratio=beside.p50 / reference.p50,
        p99_ratio=beside.p99 / reference.p99,
        p50_difference_ms=beside.p50 - reference.p50,
        p99_difference_ms=beside.p99 - reference.p99,
    )
