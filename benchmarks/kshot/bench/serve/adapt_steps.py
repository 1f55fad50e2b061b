"""Adapt by steps: the round trip of one caller, its computing and the rest, in turns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kshot.bench.report import say
from kshot.bench.serve.load_generator import Load, Sample
from kshot.bench.serve.plan import Bench, Method, end_load
from kshot.bench.serve.summary import Overhead, Split, answered, overhead, summarize
from kshot.v1 import adaptation_pb2 as wire


@dataclass(frozen=True)
class AdaptBySteps:
    """One caller's adaptations with so many steps; None is a call with no option but seed and ttl.

    `steps_taken` are those of the last answer. `overhead` has the round trip, the computing and the
    time beyond it, `timing_ms` the medians of the server's phases; all in milliseconds.
    """

    step_count: int | None
    steps_taken: int
    overhead: Overhead
    timing_ms: Split


async def measure_steps(bench: Bench) -> tuple[AdaptBySteps, ...]:
    """Adapt with each number of steps in turns, for the seconds of one load; the default is last.

    Raises `ClickException` when the server refuses all calls with one of them, or has ended.
    """
    numbers: tuple[int | None, ...] = (*bench.plan.step_counts, None)
    methods = {number: _method(bench, number) for number in numbers}
    say(f"Adapt, in turns: {', '.join(method.name for method in methods.values())}")
    samples: dict[int | None, list[Sample]] = {number: [] for number in numbers}
    for method in methods.values():  # the first of each is not counted
        await _call(bench, method)
    until = bench.clock.now() + bench.plan.seconds
    while not samples[None] or bench.clock.now() < until:
        for number, method in methods.items():
            samples[number].append(await _call(bench, method))
    for number, method in methods.items():
        await end_load(bench, method, Load(tuple(samples[number]), 0.0, 0.0))
    return tuple(told_apart(number, some) for number, some in samples.items())


def told_apart(step_count: int | None, samples: Sequence[Sample]) -> AdaptBySteps:
    """Tell the parts of some adaptations apart; at least one must be answered."""
    over = overhead(samples)
    timing = summarize(Load(tuple(samples), 0.0, 0.0), wire.AdaptResponse).timing_ms
    if over is None or timing is None:
        raise ValueError("adaptations: expected at least one answer, got none")
    last = wire.AdaptResponse.FromString(answered(samples)[-1].answer.content)
    return AdaptBySteps(step_count, len(last.report.support_loss), over, timing)


def _method(bench: Bench, step_count: int | None) -> Method:
    if step_count is None:
        workload = replace(bench.workload, step_count=None, batch_norm_mode=None)
        return Method("default", bench.session.adapting(workload), wire.AdaptResponse)
    workload = replace(bench.workload, step_count=step_count)
    send = bench.session.adapting(workload)
    return Method(f"{step_count} steps", send, wire.AdaptResponse)


async def _call(bench: Bench, method: Method) -> Sample:
    sent = bench.clock.now()
    answer = await method.send()
    return Sample(sent, sent, bench.clock.now(), answer)
