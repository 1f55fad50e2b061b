"""The loads of `kshot bench serve`, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

from kshot.bench.report import say
from kshot.bench.serve.load import (
    OK,
    Clock,
    Load,
    Send,
    arrival_times,
    closed_loop,
    continuous_load,
    join_loads,
    open_loop,
)
from kshot.bench.serve.load_summary import Response, compute_paths, overhead, summarize
from kshot.bench.serve.results import (
    BesideAdapt,
    ClosedLoop,
    MethodLoads,
    OpenLoop,
    ServeResult,
    Turn,
    compare,
)
from kshot.bench.serve.session import Session
from kshot.bench.serve.usage import Cpu, cpu_per_call
from kshot.bench.speed.timing import percentiles
from kshot.v1 import adaptation_pb2 as wire

# Loads that are compared take turns, so often: a drift of the machine meets them all.
_TURNS = 4
_SEED = 0
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class ServePlan:
    """How to load a server.

    `seconds` is the length of each load; `rate` the calls per second of the open loops, None for
    half of what the closed loops reached. Predictions go to `adapted_models` in turn.
    """

    concurrency: tuple[int, ...] = (1, 8, 64)
    seconds: float = 5.0
    rate: float | None = None
    arrivals: str = "poisson"
    adapted_models: int = 1
    adapting_callers: tuple[int, ...] = (1, 8)


@dataclass(frozen=True)
class Bench:
    """What loads are driven with.

    `check` raises when the server is gone; `cpu` tells what it has computed, None if unknown.
    """

    session: Session
    plan: ServePlan
    clock: Clock
    check: Callable[[], None]
    cpu: Callable[[], Cpu | None]


@dataclass(frozen=True)
class Closed:
    """A closed loop, and what the server computed before and after it."""

    load: Load
    before: Cpu | None
    after: Cpu | None

    def result(self, callers: int, response: Response) -> ClosedLoop:
        """Weigh the load."""
        summary = summarize(self.load, response)
        used = None
        if self.before is not None and self.after is not None:
            used = cpu_per_call(self.before, self.after, summary.answered)
        return ClosedLoop(callers, summary, used)


@dataclass(frozen=True)
class Method:
    """A method under load: its name, what sends a call, how to read an answer."""

    name: str
    send: Send
    response: Response


async def measure(bench: Bench) -> ServeResult:
    """Warm the server up and drive every load of the plan.

    Raises ``ClickException`` when a load had no answer, or the server is gone.
    """
    say(f"adapted models to predict with: {bench.plan.adapted_models}")
    kept = [await bench.session.keep() for _ in range(bench.plan.adapted_models)]
    adapt = Method("Adapt", bench.session.adapt, wire.AdaptResponse)
    predict = Method("Predict", bench.session.predict(kept), wire.PredictResponse)
    for method in (adapt, predict):
        await _warm_up(bench, method)
    adapt_loops = await _closed_loops(bench, adapt)
    adapt_result = await _result(bench, adapt, adapt_loops)
    predict_loops = await _closed_loops(bench, predict)
    return ServeResult(
        adapt=adapt_result,
        predict=await _result(bench, predict, predict_loops),
        adapt_overhead=overhead(adapt_loops[1].load.samples) if 1 in adapt_loops else None,
        compute_paths=compute_paths(
            join_loads([loop.load for loop in adapt_loops.values()]).samples
        ),
        predict_beside_adapt=await _beside_adapt(bench, predict),
    )


async def _warm_up(bench: Bench, method: Method) -> None:
    """Load the server as hard as it will be, without counting."""
    say(f"{method.name}, warming up")
    callers, seconds = max(bench.plan.concurrency), min(_WARM_UP_SECONDS, bench.plan.seconds)
    await _end(bench, method, await closed_loop(method.send, callers, seconds, bench.clock))


async def _closed_loops(bench: Bench, method: Method) -> dict[int, Closed]:
    """Drive the closed loops; by number of callers."""
    loops = {}
    for callers in bench.plan.concurrency:
        say(f"{method.name}, closed loop, concurrency {callers}")
        before = bench.cpu()
        load = await closed_loop(method.send, callers, bench.plan.seconds, bench.clock)
        loops[callers] = Closed(load, before, bench.cpu())
        await _end(bench, method, load)
    return loops


async def _result(bench: Bench, method: Method, loops: Mapping[int, Closed]) -> MethodLoads:
    """Weigh the closed loops, then drive the open one."""
    closed = tuple(loop.result(callers, method.response) for callers, loop in loops.items())
    fastest = max(level.load.calls_per_second for level in closed)
    plan, rate = bench.plan, bench.plan.rate or fastest / 2
    say(f"{method.name}, open loop, {rate:.4g} calls per second")
    arrivals = arrival_times(plan.arrivals, rate, plan.seconds, _SEED)
    load = await _end(bench, method, await open_loop(method.send, arrivals, bench.clock))
    lateness = percentiles([sample.lateness_ms for sample in load.samples])
    summary = summarize(load, method.response)
    return MethodLoads(closed, OpenLoop(plan.arrivals, rate, lateness, summary))


async def _beside_adapt(bench: Bench, predict: Method) -> tuple[BesideAdapt, ...]:
    """Let one caller predict alone and beside those who adapt, in turns; the first is alone."""
    turns: dict[int, list[Turn]] = {callers: [] for callers in (0, *bench.plan.adapting_callers)}
    for number in range(_TURNS):
        for callers, done in turns.items():
            say(f"Predict, Adapt x {callers} beside it, turn {number + 1} of {_TURNS}")
            done.append(await _turn(bench, predict, callers))
    joined = {
        callers: join_loads([turn.predictions for turn in done]) for callers, done in turns.items()
    }
    return tuple(compare(joined[0], joined[callers], turns[callers], callers) for callers in turns)


async def _turn(bench: Bench, predict: Method, callers: int) -> Turn:
    begin, clock = bench.clock.now(), bench.clock
    async with continuous_load(bench.session.adapt, callers, clock) as adaptations:
        load = await closed_loop(predict.send, 1, bench.plan.seconds / _TURNS, clock)
    seconds = clock.now() - begin
    return Turn(await _end(bench, predict, load), tuple(adaptations), seconds)


async def _end(bench: Bench, method: Method, load: Load) -> Load:
    """Delete what a load has made and see that it was answered at all."""
    bench.check()
    await bench.session.forget()
    codes = Counter(sample.answer.code for sample in load.samples)
    if not codes[OK]:
        counts = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
        raise click.ClickException(f"no call of {method.name} was answered: {counts}")
    return load
