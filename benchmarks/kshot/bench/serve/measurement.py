"""The loads of `kshot bench serve`, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kshot.bench.report import say
from kshot.bench.serve import load_generator as generator
from kshot.bench.serve import summary
from kshot.bench.serve.adapt_steps import AdaptBySteps, measure_steps
from kshot.bench.serve.echo import BesideEcho, measure_echo
from kshot.bench.serve.load_generator import Load, Sample
from kshot.bench.serve.plan import Bench, Method, end_load
from kshot.bench.serve.process_usage import cpu_per_call
from kshot.bench.serve.summary import BesideAdapt, ClosedLoop, MethodLoads, OpenLoop, Overhead
from kshot.bench.speed.timing import percentiles
from kshot.v1 import adaptation_pb2 as wire

_SEED = 0
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Turn:
    """A load of predictions, and the adaptations that ran beside it for some seconds."""

    predictions: Load
    adaptations: Sequence[Sample]
    seconds: float


@dataclass(frozen=True)
class ServeResult:
    """All measurements.

    `adapt_overhead` is None where no closed loop had exactly one caller, `predict_beside_echo`
    where the server is not the bench's own.
    """

    adapt: MethodLoads
    predict: MethodLoads
    adapt_overhead: Overhead | None
    adapt_by_steps: tuple[AdaptBySteps, ...]
    compute_paths: Mapping[str, int]
    predict_beside_adapt: tuple[BesideAdapt, ...]
    predict_beside_echo: BesideEcho | None


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
        await end_load(bench, method, load)
    adapt_loads, samples = await _loads(bench, adapt)
    predict_loads, _ = await _loads(bench, predict)
    return ServeResult(
        adapt=adapt_loads,
        predict=predict_loads,
        adapt_overhead=summary.overhead(samples.get(1, ())),
        adapt_by_steps=await measure_steps(bench),
        compute_paths=summary.compute_paths(
            [sample for some in samples.values() for sample in some]
        ),
        predict_beside_adapt=await _beside_adapt(bench, predict),
        predict_beside_echo=await measure_echo(bench, predict, kept),
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
        await end_load(bench, method, load)
        weighed = summary.summarize(load, method.response)
        closed.append(ClosedLoop(callers, weighed, cpu_per_call(before, after, weighed.answered)))
        samples[callers] = load.samples
    rate = plan.rate or max(level.load.calls_per_second for level in closed) / 2
    say(f"{method.name}, open loop, {rate:.4g} calls per second")
    arrivals = generator.arrival_times(plan.arrivals, rate, plan.seconds, _SEED)
    load = await end_load(
        bench, method, await generator.open_loop(method.send, arrivals, bench.clock)
    )
    lateness = percentiles([sample.lateness_ms for sample in load.samples])
    weighed = summary.summarize(load, method.response)
    return MethodLoads(tuple(closed), OpenLoop(plan.arrivals, rate, lateness, weighed)), samples


async def _beside_adapt(bench: Bench, predict: Method) -> tuple[BesideAdapt, ...]:
    """Let one caller predict alone and beside adapting callers, in turns; alone comes first.

    Turns spread a drift of the machine over all of them.
    """
    turns: dict[int, list[Turn]] = {callers: [] for callers in (0, *bench.plan.adapting_callers)}
    for number in range(bench.plan.turns):
        for callers, done in turns.items():
            say(f"Predict, Adapt x {callers} beside it, turn {number + 1} of {bench.plan.turns}")
            done.append(await _turn(bench, predict, callers))
    return tuple(compare(turns[0], done, callers) for callers, done in turns.items())


async def _turn(bench: Bench, predict: Method, callers: int) -> Turn:
    begin, clock = bench.clock.now(), bench.clock
    async with generator.continuous_load(bench.session.adapt, callers, clock) as adaptations:
        load = await generator.closed_loop(predict.send, 1, bench.plan.turn_seconds, clock)
    seconds = clock.now() - begin
    return Turn(await end_load(bench, predict, load), tuple(adaptations), seconds)


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
