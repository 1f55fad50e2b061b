"""Tables and the plot of `kshot bench serve`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import TYPE_CHECKING

from kshot.bench.report import Report
from kshot.bench.serve.echo import BesideEcho
from kshot.bench.serve.measurement import ServeResult
from kshot.bench.serve.memory import MemoryResult
from kshot.bench.serve.summary import LoadSummary, MethodLoads
from kshot.bench.speed.timing import Percentiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADINGS = (
    *("load", "p50 ms", "p95", "p99", "calls/s"),
    *("queue ms", "decode", "compute", "store", "rest", "errors"),
)
_MIB = 2**20


def loads_report(title: str, result: ServeResult) -> Report:
    """Return all loads as one table, with further figures below it."""
    rows = [
        *_method_rows("Adapt", result.adapt),
        *_method_rows("Predict", result.predict),
        *(
            _row(f"Predict x 1, Adapt x {beside.adapting_callers} beside it", beside.load)
            for beside in result.predict_beside_adapt
        ),
    ]
    return Report(title, _HEADINGS, rows, list(_notes(result)))


def memory_report(title: str, result: MemoryResult) -> Report:
    """Return the memory of both processes as a table, with the cost of one model below it."""
    moments = [
        *((f"round {look.rounds}", look.memory) for look in result.looks),
        (f"{result.models} models kept", result.kept),
        ("deleted", result.deleted),
    ]
    rows = [
        (moment, f"{memory.front_bytes / _MIB:.1f}", f"{memory.engine_bytes / _MIB:.1f}")
        for moment, memory in moments
    ]
    notes = [
        f"One kept model: {result.memory_bytes_per_model / _MIB:.3f} MiB of memory, "
        f"{result.store_bytes_per_model / _MIB:.3f} MiB on disk."
    ]
    return Report(title, ("moment", "front MiB", "engine MiB"), rows, notes)


def draw_result(title: str, result: ServeResult, figure: Figure) -> None:
    """Draw latency over concurrency, one panel for each method."""
    from matplotlib.ticker import LogLocator, NullFormatter

    figure.suptitle(title)
    methods = (("Adapt", result.adapt), ("Predict", result.predict))
    for axes, (name, loads) in zip(figure.subplots(1, 2), methods, strict=True):
        callers = [level.concurrency for level in loads.closed]
        for share in ("p50", "p95", "p99"):
            points = [
                (level.concurrency, getattr(level.load.latency_ms, share))
                for level in loads.closed
                if level.load.latency_ms is not None
            ]
            axes.plot(*zip(*points, strict=True), marker="o", label=share)
        axes.set_title(f"{name}, closed loop")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(callers, list(map(str, callers)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("callers")
        axes.set_ylabel("latency, ms")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()


def _method_rows(name: str, loads: MethodLoads) -> Iterator[tuple[str, ...]]:
    for level in loads.closed:
        yield _row(f"{name} x {level.concurrency}", level.load)
    yield _row(f"{name}, {loads.open.rate:.4g}/s, {loads.open.arrivals}", loads.open.load)


def _row(name: str, load: LoadSummary) -> tuple[str, ...]:
    errors = ", ".join(f"{count} {code}" for code, count in load.errors.items())
    if load.latency_ms is None or load.timing_ms is None:
        return (name, *["-"] * 9, errors)
    return (
        name,
        *load.latency_ms.cells(2),
        f"{load.calls_per_second:.1f}",
        *(f"{value:.2f}" for value in astuple(load.timing_ms)),
        errors or "0",
    )


def _notes(result: ServeResult) -> Iterator[str]:
    yield (
        "Latency counts from when a call was due; in an open loop it includes the wait that a "
        "stall causes. The parts are medians of the server's own times; rest is transport, the "
        "wait to be read, and the server's work between the parts."
    )
    if result.adapt_overhead is not None:
        over = result.adapt_overhead
        yield (
            f"Adapt over the engine's computing, one caller: {_ms(over.over_compute_ms)}; "
            f"without the queue and the way to the engine: {_ms(over.over_compute_and_queue_ms)}."
        )
    for each in result.adapt_by_steps:
        asked = "by default" if each.step_count is None else f"{each.step_count} steps"
        over = each.overhead
        yield (
            f"Adapt, one caller, {asked} ({each.steps_taken} taken): p50 "
            f"{over.round_trip_ms.p50:.2f} ms, computing {over.compute_ms.p50:.2f}, beyond it "
            f"{over.over_compute_ms.p50:.2f}."
        )
    if result.predict_beside_echo is not None:
        yield _echo_note(result.predict_beside_echo)
    for beside in result.predict_beside_adapt:
        if beside.adapting_callers:
            yield (
                f"Predict with Adapt x {beside.adapting_callers} beside it "
                f"({beside.adaptations_per_second:.1f} adaptations/s), to alone: "
                f"p50 x {beside.p50_ratio:.2f}, p99 x {beside.p99_ratio:.2f} "
                f"({beside.p99_difference_ms:+.2f} ms)."
            )
    paths = ", ".join(f"{path}: {count}" for path, count in result.compute_paths.items())
    yield f"Adaptations by compute path: {paths}."
    for name, loads in (("Adapt", result.adapt), ("Predict", result.predict)):
        used = ", ".join(
            f"{level.cpu_per_call.front_ms:.2f} + {level.cpu_per_call.engine_ms:.2f}"
            for level in loads.closed
            if level.cpu_per_call is not None
        )
        if used:
            yield f"{name}, processor time of front + engine per call, ms: {used}."
        yield (
            f"{name}, open loop: the generator sent calls {loads.open.lateness_ms.p99:.2f} ms late "
            f"(p99) and used {loads.open.load.generator_cpu:.0%} of a core."
        )


def _echo_note(beside: BesideEcho) -> str:
    used = ""
    if beside.cpu_ratio is not None:
        used = (
            f"; processor time a call: front {beside.front_cpu_us:.0f} us, echo "
            f"{beside.echo_cpu_us:.0f}, echo / front {beside.cpu_ratio:.2f}"
        )
    return (
        f"Predict x {beside.concurrency}, in turns with a bare gRPC server: "
        f"{beside.predict_per_second:.0f} and {beside.echo_per_second:.0f} calls/s, "
        f"Predict / echo {beside.rate_ratio:.2f}{used}; the generator used "
        f"{beside.predict_generator_cpu:.0%} and {beside.echo_generator_cpu:.0%} of a core."
    )


def _ms(spans: Percentiles) -> str:
    return f"p50 {spans.p50:.2f}, p99 {spans.p99:.2f} ms"
