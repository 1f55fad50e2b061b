"""Load generator: callers in a closed loop, arrivals in an open loop; independent of gRPC."""

import asyncio
import math
import selectors
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

OK = "OK"
ARRIVALS = ("poisson", "constant")

# A refused caller waits this long before the next call. Refusals cost the server little: without a
# pause the load would consist of them.
REFUSAL_PAUSE_SECONDS = 0.1

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one call: `OK` with the response's bytes, or the name of a status code."""

    code: str
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: when it was due, when it was sent and answered, in seconds of one clock."""

    due: float
    sent: float
    answered: float
    answer: Answer

    @property
    def latency_ms(self) -> float:
        """Return the time since the call was due, including its wait to be sent."""
        return 1e3 * (self.answered - self.due)

    @property
    def round_trip_ms(self) -> float:
        """Return the time since the call was sent."""
        return 1e3 * (self.answered - self.sent)

    @property
    def lateness_ms(self) -> float:
        """Return how long after its due time the call was sent."""
        return 1e3 * (self.sent - self.due)


@dataclass(frozen=True)
class Load:
    """The calls of one load, seconds from its start to the last answer, generator's CPU share."""

    samples: tuple[Sample, ...]
    seconds: float
    generator_cpu: float


Send = Callable[[], Awaitable[Answer]]


class Clock:
    """The clock of this machine; tests have another."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    async def sleep_until(self, when: float) -> None:
        """Return at a time, or at once when it has passed."""
        await asyncio.sleep(max(0.0, when - time.perf_counter()))


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on an event loop whose timers are finer than a millisecond.

    The default loop waits whole milliseconds, which is as long as a call to Predict takes.
    """
    precise_loop = partial(asyncio.SelectorEventLoop, selectors.SelectSelector())
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(main)


def arrival_times(kind: str, rate: float, seconds: float, seed: int) -> tuple[float, ...]:
    """Return the times at which calls arrive: seconds from 0, the first, to `seconds`.

    `constant` spaces them evenly; `poisson` draws the gaps from an exponential distribution.
    """
    if kind == "constant":
        return tuple(number / rate for number in range(max(1, math.ceil(rate * seconds))))
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    # More than six standard deviations above the mean, so that the gaps span `seconds`.
    gaps = generator.exponential(1 / rate, int(expected + 6 * math.sqrt(expected) + 20))
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return tuple(times[times < seconds].tolist())


async def closed_loop(send: Send, callers: int, seconds: float, clock: Clock) -> Load:
    """Let each caller send its next call when its last is answered, for some seconds."""
    begin, cpu = clock.now(), time.process_time()
    async with continuous_load(send, callers, clock) as samples:
        await clock.sleep_until(begin + seconds)
    return _load(samples, begin, cpu, clock)


async def open_loop(send: Send, arrivals: Sequence[float], clock: Clock) -> Load:
    """Send a call at each time, counted from now, regardless of unanswered calls.

    Latency counts from the time in `arrivals`, so a stall shows in every call that was due during
    it (no coordinated omission).
    """
    begin, cpu = clock.now(), time.process_time()
    samples: list[Sample] = []

    async def call(due: float) -> None:
        sent = clock.now()
        answer = await send()
        samples.append(Sample(due, sent, clock.now(), answer))

    async with asyncio.TaskGroup() as group:
        for arrival in arrivals:
            await clock.sleep_until(begin + arrival)
            group.create_task(call(begin + arrival))
    return _load(samples, begin, cpu, clock)


@asynccontextmanager
async def continuous_load(send: Send, callers: int, clock: Clock) -> AsyncIterator[list[Sample]]:
    """Run a closed loop until the block ends and its last calls are answered.

    Yields the samples so far.
    """
    samples: list[Sample] = []
    stopped = False

    async def call() -> None:
        while not stopped:
            sent = clock.now()
            answer = await send()
            samples.append(Sample(sent, sent, clock.now(), answer))
            if answer.code != OK:
                await clock.sleep_until(clock.now() + REFUSAL_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
        try:
            yield samples
        finally:
            stopped = True


def join_loads(loads: Sequence[Load]) -> Load:
    """Join loads that followed one another."""
    seconds = sum(load.seconds for load in loads)
    cpu_seconds = sum(load.generator_cpu * load.seconds for load in loads)
    samples = tuple(sample for load in loads for sample in load.samples)
    return Load(samples, seconds, cpu_seconds / seconds if seconds > 0 else 0.0)


def _load(samples: Sequence[Sample], begin: float, cpu: float, clock: Clock) -> Load:
    seconds = max((sample.answered for sample in samples), default=clock.now()) - begin
    used = time.process_time() - cpu
    return Load(tuple(samples), seconds, used / seconds if seconds > 0 else 0.0)
