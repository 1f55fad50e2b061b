"""The loads of `kshot bench serve`, one after the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from kshot.bench.report import say
from kshot.bench.serve import load_generator as generator
from kshot.bench.serve import summary
from kshot.bench.serve.load_generator import OK, Clock, Load, Sample, Send
from kshot.bench.serve.process_usage import cpu_per_call
from kshot.bench.serve.server_calls import Session
from kshot.bench.serve.server_process import ServerProcess
from kshot.bench.serve.summary import BesideAdapt, ClosedLoop, MethodLoads, OpenLoop, ServeResult
from kshot.bench.speed.timing import percentiles
from kshot.v1 import adaptation_pb2 as wire

# Loads that are compared take turns, so that a drift of the machine affects all of them.
_TURNS = 4
_SEED = 0
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class ServePlan:
    """How to load a server.

    `seconds` is the length of each load; `rate` the calls per second of the open loops, None for
    half of the closed loops' best rate. Predictions go to `adapted_models` in turn.
    """

    concurrency: tuple[int, ...] = (1, 8, 64)
    seconds: float = 5.0
    rate: float | None = None
    arrivals: str = "poisson"
    adapted_models: int = 1
    adapting_callers: tuple[int, ...] = (1, 8)


@dataclass(frozen=True)
class Bench:
    """The server where it is the bench's own, the session with it, and the plan of the loads."""

    server: ServerProcess | None
    session: Session
    plan: ServePlan
    clock: Clock


@dataclass(frozen=True)
class Method:
    """A method under load: its name, its call, and the type of its answers."""

    name: str
    send: Send
    response: summary.Response


@dataclass(frozen=True)
class Turn:
    """A load of predictions, and the adaptations that ran beside it for some seconds."""

    predictions: Load
    adaptations: Sequence[Sample]
    seconds: float


async def measure(bench: Bench) -> ServeResult:
    """Warm the server up and run every load of the plan.

    Raises `ClickException` when a load had no answer, or the server has ended.
    """
    say(f"adapted models to predict with: {bench.plan.adapted_models}")
    kept = [await bench.session.keep() for _ in range(bench.plan.adapted_models)]
    adapt = Method("Adapt", bench.session.adapt, wire.AdaptResponse)
    predict = Method("Predict", bench.session.predict(kept), wire.PredictResponse)
    # The heaviest load of each is not counted.
    callers, seconds = max(bench.plan.concurrency), min(_WARM_UP_SECONDS, bench.plan.seconds)
    for method in (adapt, predict):
        say(f"{method.name}, warming up")
        load = await generator.closed_loop(method.send, callers, seconds, bench.clock)
        await _end(bench, method, load)
    adapt_loads, samples = await _loads(bench, adapt)
    predict_loads, _ = await _loads(bench, predict)
    return ServeResult(
        adapt=adapt_loads,
        predict=predict_loads,
        adapt_overhead=summary.overhead(samples.get(1, ())),
        compute_paths=summary.compute_paths(
            [sample for some in samples.values() for sample in some]
        ),
        predict_beside_adapt=await _beside_adapt(bench, predict),
    )


async def _loads(
    bench: Bench, method: Method
) -> tuple[MethodLoads, Mapping[int, Sequence[Sample]]]:
    """Run a method's loads; returns the calls of the closed loops too, by number of callers.

    The open loop runs by default at half of the closed loops' best rate.
    """
    plan, closed, samples = bench.plan, [], {}
    for callers in plan.concurrency:
        say(f"{method.name}, closed loop, concurrency {callers}")
        before = bench.server.cpu() if bench.server else None
        load = await generator.closed_loop(method.send, callers, plan.seconds, bench.clock)
        after = bench.server.cpu() if bench.server else None
        await _end(bench, method, load)
        weighed = summary.summarize(load, method.response)
        closed.append(ClosedLoop(callers, weighed, cpu_per_call(before, after, weighed.answered)))
        samples[callers] = load.samples
    rate = plan.rate or max(level.load.calls_per_second for level in closed) / 2
    say(f"{method.name}, open loop, {rate:.4g} calls per second")
    arrivals = generator.arrival_times(plan.arrivals, rate, plan.seconds, _SEED)
    load = await _end(bench, method, await generator.open_loop(method.send, arrivals, bench.clock))
    lateness = percentiles([sample.lateness_ms for sample in load.samples])
    weighed = summary.summarize(load, method.response)
    return MethodLoads(tuple(closed), OpenLoop(plan.arrivals, rate, lateness, weighed)), samples


async def _beside_adapt(bench: Bench, predict: Method) -> tuple[BesideAdapt, ...]:
    """Let one caller predict alone and beside adapting callers, in turns; alone comes first."""
    turns: dict[int, list[Turn]] = {callers: [] for callers in (0, *bench.plan.adapting_callers)}
    for number in range(_TURNS):
        for callers, done in turns.items():
            say(f"Predict, Adapt x {callers} beside it, turn {number + 1} of {_TURNS}")
            done.append(await _turn(bench, predict, callers))
    return tuple(compare(turns[0], done, callers) for callers, done in turns.items())


async def _turn(bench: Bench, predict: Method, callers: int) -> Turn:
    begin, clock = bench.clock.now(), bench.clock
    async with generator.continuous_load(bench.session.adapt, callers, clock) as adaptations:
        load = await generator.closed_loop(predict.send, 1, bench.plan.seconds / _TURNS, clock)
    seconds = clock.now() - begin
    return Turn(await _end(bench, predict, load), tuple(adaptations), seconds)


def compare(alone: Sequence[Turn], turns: Sequence[Turn], callers: int) -> BesideAdapt:
    """Compare predictions beside adaptations with those alone; some of each must be answered."""
    joined = (generator.join_loads([turn.predictions for turn in each]) for each in (alone, turns))
    reference, load = (summary.summarize(each, wire.PredictResponse) for each in joined)
    if load.latency_ms is None or reference.latency_ms is None:
        raise ValueError("predictions: expected at least one answer in each load, got none")
    adapted = sum(len(summary.answered(turn.adaptations)) for turn in turns)
    beside, base = load.latency_ms, reference.latency_ms
    return BesideAdapt(
        adapting_callers=callers,
        adaptations_per_second=adapted / sum(turn.seconds for turn in turns),
        load=load,
        p50_ratio=beside.p50 / base.p50,
        p99_ratio=beside.p99 / base.p99,
        p50_difference_ms=beside.p50 - base.p50,
        p99_difference_ms=beside.p99 - base.p99,
    )


async def _end(bench: Bench, method: Method, load: Load) -> Load:
    """Delete the load's adapted models and check that some of its calls were answered."""
    if bench.server is not None:
        bench.server.check()
    await bench.session.forget()
    codes = Counter(sample.answer.code for sample in load.samples)
    if not codes[OK]:
        counts = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
        raise click.ClickException(f"no call of {method.name} was answered: {counts}")
    return load
