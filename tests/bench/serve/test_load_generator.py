"""Closed and open loops, on a clock that the tests advance."""

import asyncio
import heapq
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from kshot.bench.serve.load_generator import (
    OK,
    REFUSAL_PAUSE_SECONDS,
    Answer,
    Clock,
    Load,
    Sample,
    arrival_times,
    closed_loop,
    continuous_load,
    join_loads,
    open_loop,
    run,
)

Result = TypeVar("Result")


class FakeClock(Clock):
    """Time that passes when everybody waits for it."""

    def __init__(self) -> None:
        self.time = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep_until(self, when: float) -> None:
        if when > self.time:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (when, next(self._order), future))
            await future

    async def drive(self, main: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.create_task(main)
        while not task.done():
            for _ in range(50):  # whoever can go on does
                await asyncio.sleep(0)
            if self._sleepers and not task.done():
                self.time, _, future = heapq.heappop(self._sleepers)
                future.set_result(None)
        return task.result()


class FakeServer:
    """Serves one call after the other, each for so many seconds, and none before `opens`."""

    def __init__(self, clock: FakeClock, seconds: float, opens: float = 0.0) -> None:
        self.clock, self.seconds, self.free = clock, seconds, opens
        self.calls: list[float] = []
        self.inside = self.most_inside = 0

    async def call(self) -> Answer:
        self.calls.append(self.clock.now())
        number = len(self.calls)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.free = max(self.free, self.clock.now()) + self.seconds
        await self.clock.sleep_until(self.free)
        self.inside -= 1
        return Answer(OK, str(number).encode())


async def refuse() -> Answer:
    return Answer("UNAVAILABLE")


def latencies(load: Load) -> list[float]:
    """Return the latencies in the order in which the calls were due."""
    ordered = sorted(load.samples, key=lambda sample: sample.due)
    return [round(sample.latency_ms, 6) for sample in ordered]


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrival_times("constant", 4.0, 1.0, seed=0) == (0.0, 0.25, 0.5, 0.75)


def test_at_least_one_call_arrives() -> None:
    assert arrival_times("constant", 0.01, 1.0, seed=0) == (0.0,)
    assert arrival_times("poisson", 0.01, 1.0, seed=0)[0] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals_come_at_their_rate(seed: int) -> None:
    times = np.array(arrival_times("poisson", 100.0, 50.0, seed))
    gaps = np.diff(times)

    assert times[0] == 0.0
    assert times[-1] < 50.0
    assert (gaps > 0).all()
    assert len(times) == pytest.approx(5000, abs=5 * np.sqrt(5000))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential: they are equal


def test_the_seed_decides_poisson_arrivals() -> None:
    first, again, other = (arrival_times("poisson", 10.0, 10.0, seed) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_an_open_loop_sends_on_time() -> None:
    clock = FakeClock()
    server = FakeServer(clock, seconds=10.0)
    arrivals = arrival_times("poisson", 20.0, 1.0, seed=3)

    load = asyncio.run(clock.drive(open_loop(server.call, arrivals, clock)))

    assert server.calls == list(arrivals)
    assert sorted(sample.due for sample in load.samples) == list(arrivals)
    assert len({sample.answer.content for sample in load.samples}) == len(arrivals)
    assert all(sample.lateness_ms == 0 for sample in load.samples)
    assert load.seconds == pytest.approx(10.0 * len(arrivals))


def test_a_stall_shows_in_every_delayed_call() -> None:
    """No coordinated omission: a closed loop shows the same stall in one call of many."""
    clock = FakeClock()
    stalled = FakeServer(clock, seconds=0.0, opens=0.5)
    arrivals = arrival_times("constant", 10.0, 1.0, seed=0)

    load = asyncio.run(clock.drive(open_loop(stalled.call, arrivals, clock)))

    assert latencies(load) == [500, 400, 300, 200, 100, 0, 0, 0, 0, 0]


def test_latency_counts_from_the_due_time() -> None:
    class LateClock(FakeClock):
        async def sleep_until(self, when: float) -> None:
            await super().sleep_until(when + 0.25)

    clock = LateClock()

    async def answer_at_once() -> Answer:
        return Answer(OK)

    load = asyncio.run(clock.drive(open_loop(answer_at_once, [0.0, 10.0], clock)))

    assert [sample.lateness_ms for sample in load.samples] == [250, 250]
    assert [sample.latency_ms for sample in load.samples] == [250, 250]
    assert [sample.round_trip_ms for sample in load.samples] == [0, 0]


@pytest.mark.parametrize("callers", [1, 3])
def test_callers_of_a_closed_loop_wait_for_answers(callers: int) -> None:
    clock = FakeClock()
    server = FakeServer(clock, seconds=0.125)

    load = asyncio.run(clock.drive(closed_loop(server.call, callers, 1.0, clock)))

    assert server.most_inside == callers
    # Eight are served in the second; those who then wait are answered too.
    assert len(load.samples) == len(server.calls) == 8 + callers - 1
    assert {sample.answer.content for sample in load.samples} == {
        str(number + 1).encode() for number in range(len(server.calls))
    }
    assert max(server.calls) < 1.0
    assert load.seconds == pytest.approx(1.0 + 0.125 * (callers - 1))
    assert latencies(load)[callers:] == [125 * callers] * (len(load.samples) - callers)


def test_a_refused_caller_waits() -> None:
    clock = FakeClock()

    load = asyncio.run(clock.drive(closed_loop(refuse, 2, 1.0, clock)))

    turns = round(1.0 / REFUSAL_PAUSE_SECONDS)
    assert len(load.samples) in (2 * turns, 2 * (turns + 1))  # by how tenths add up
    assert {sample.answer.code for sample in load.samples} == {"UNAVAILABLE"}


def test_a_continuous_load_ends_with_its_block() -> None:
    clock = FakeClock()
    server = FakeServer(clock, seconds=0.3)

    async def main() -> list[Sample]:
        async with continuous_load(server.call, 2, clock) as samples:
            await clock.sleep_until(1.0)
        assert server.inside == 0
        return samples

    samples = asyncio.run(clock.drive(main()))

    assert len(samples) == len(server.calls) == 5
    assert clock.time == pytest.approx(1.5)


def test_a_continuous_load_may_have_no_callers() -> None:
    async def main() -> list[Sample]:
        async with continuous_load(refuse, 0, Clock()) as samples:
            return samples

    assert asyncio.run(main()) == []


def test_joined_loads_count_every_call_once() -> None:
    samples = [Sample(0, 0, number, Answer(OK)) for number in range(3)]

    joined = join_loads([Load(tuple(samples[:1]), 1.0, 0.5), Load(tuple(samples[1:]), 3.0, 0.1)])

    assert joined.samples == tuple(samples)
    assert joined.seconds == 4.0
    assert joined.generator_cpu == pytest.approx((0.5 + 0.3) / 4)


def test_an_error_in_the_generator_is_raised() -> None:
    async def broken() -> Answer:
        raise ValueError("broken")

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        run(closed_loop(broken, 2, 1.0, Clock()))


def test_the_clock_advances() -> None:
    clock = Clock()

    async def main() -> tuple[float, float]:
        before = clock.now()
        await clock.sleep_until(before - 1)  # has passed
        await clock.sleep_until(before + 0.001)
        return before, clock.now()

    before, after = run(main())
    assert after >= before + 0.001
