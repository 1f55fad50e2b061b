"""Servers with different numbers of engines and as many copies of the inner loop, in turns."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from kshot.bench.report import say
from kshot.bench.serve.load_generator import Clock, closed_loop
from kshot.bench.serve.plan import Bench, Method, ServePlan, end_load
from kshot.bench.serve.requests import Workload
from kshot.bench.serve.server_calls import open_session
from kshot.bench.serve.server_process import ServerProcess
from kshot.bench.serve.summary import answered
from kshot.bench.speed.copies import Copies
from kshot.bench.speed.timing import ratio, turns
from kshot.client import ModelCapabilities
from kshot.v1 import adaptation_pb2 as wire

_COPY = "kshot"

Rates = dict[int, list[float]]


@dataclass(frozen=True)
class EngineCount:
    """A number of engines beside as many independent processes with kshot's inner loop.

    Rates are medians of the turns, in adaptations a second. `gain` and `copies_gain` are to the
    first number of engines and of processes; `gain_ratio` is one over the other, above 1 where the
    server gains more. All three are medians of the turns' ratios.
    """

    engines: int
    adaptations_per_second: float
    copies_per_second: float
    gain: float
    copies_gain: float
    gain_ratio: float


async def take_turns(
    servers: Mapping[int, ServerProcess],
    copies: Copies,
    workload: Workload,
    model: ModelCapabilities,
    plan: ServePlan,
) -> tuple[Rates, Rates]:
    """Load each server and as many copies as it has engines, one after another, turn by turn.

    Returns adaptations a second of the servers and of the copies by number of engines. Raises
    `ClickException` when a server or a copy has ended.
    """
    async with AsyncExitStack() as stack:
        benches = {}
        for count, server in servers.items():
            opened = open_session(server.endpoint, workload, model, own=True)
            session = await stack.enter_async_context(opened)
            benches[count] = Bench(server, session, workload, plan, Clock())
        copies.warm_up(_COPY)
        of_servers: Rates = {count: [] for count in servers}
        of_copies: Rates = {count: [] for count in servers}
        for bench in benches.values():
            await _adapt(bench)  # not counted
        for number, order in enumerate(turns(list(servers), plan.turns), start=1):
            for count in order:
                say(f"engines: {count}, turn {number} of {plan.turns}")
                of_servers[count].append(await _adapt(benches[count]))
                of_copies[count].append(copies.rate(_COPY, count, plan.turn_seconds))
        return of_servers, of_copies


async def _adapt(bench: Bench) -> float:
    """Return the adaptations a second of one turn."""
    adapt, callers = bench.session.adapt, max(bench.plan.concurrency)
    load = await closed_loop(adapt, callers, bench.plan.turn_seconds, bench.clock)
    await end_load(bench, Method("Adapt", adapt, wire.AdaptResponse), load)
    return len(answered(load.samples)) / load.seconds


def compare(of_servers: Rates, of_copies: Rates) -> tuple[EngineCount, ...]:
    """Compare the turns' rates, by number of engines, with those of the first number."""
    first = next(iter(of_servers))
    return tuple(_compared(count, first, of_servers, of_copies) for count in of_servers)


def _compared(count: int, first: int, of_servers: Rates, of_copies: Rates) -> EngineCount:
    gains, copies_gains = (_gains(of[count], of[first]) for of in (of_servers, of_copies))
    return EngineCount(
        engines=count,
        adaptations_per_second=median(of_servers[count]),
        copies_per_second=median(of_copies[count]),
        gain=median(gains),
        copies_gain=median(copies_gains),
        gain_ratio=ratio(gains, copies_gains),
    )


def _gains(rates: Sequence[float], bases: Sequence[float]) -> list[float]:
    return [rate / base for rate, base in zip(rates, bases, strict=True)]
