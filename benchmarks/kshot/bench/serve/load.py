"""Load on a server: callers in a closed loop, arrivals in an open one; knows nothing of gRPC."""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

OK = "OK"
ARRIVALS = ("poisson", "constant")

# A caller who is refused waits so long before the next call: refusals cost the server little, and
# a caller who asks again at once would measure little else.
REFUSAL_PAUSE_SECONDS = 0.1

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call: `OK` with the response's bytes, or the name of a status code."""

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
        """Return the time since the call was due: what it waited to be sent counts too."""
        return 1e3 * (self.answered - self.due)

    @property
    def round_trip_ms(self) -> float:
        """Return the time since the call was sent."""
        return 1e3 * (self.answered - self.sent)

    @property
    def lateness_ms(self) -> float:
        """Return how long after its time the call was sent."""
        return 1e3 * (self.sent - self.due)


@dataclass(frozen=True)
class Load:
    """All calls of one load, the seconds from its begin to its last answer, our share of a core."""

    samples: tuple[Sample, ...]
    seconds: float
    generator_cpu: float


Send = Callable[[], Awaitable[Answer]]


class Clock(Protocol):
    """Time, as the load sees it."""

    def now(self) -> float:
        """Return the time in seconds."""

    async def sleep_until(self, when: float) -> None:
        """Return at a time, or at once when it has passed."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    async def sleep_until(self, when: float) -> None:
        """Return at a time, or at once when it has passed."""
        await asyncio.sleep(max(0.0, when - time.perf_counter()))


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on an event loop whose timers are finer than a millisecond.

    The usual loop waits in whole milliseconds, as long as a call to predict takes.
    """

    def precise_loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(main)


def arrival_times(kind: str, rate: float, seconds: float, seed: int) -> tuple[float, ...]:
    """Decide beforehand when calls arrive: seconds from 0, the first, to `seconds`.

    `constant` spaces them evenly, `poisson` draws the gaps from an exponential distribution.
    """
    if kind == "constant":
        return tuple(number / rate for number in range(max(1, math.ceil(rate * seconds))))
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    # Six standard deviations and more: so many gaps span `seconds`.
    gaps = generator.exponential(1 / rate, int(expected + 6 * math.sqrt(expected) + 20))
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return tuple(times[times < seconds].tolist())


async def closed_loop(send: Send, callers: int, seconds: float, clock: Clock) -> Load:
    """Let each caller send its next call when its last is answered, until the time is over."""
    begin, cpu = clock.now(), time.process_time()
    samples: list[Sample] = []

    def over() -> bool:
        return clock.now() >= begin + seconds

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_call_until(over, send, samples, clock))
    return _load(samples, begin, cpu, clock)


async def open_loop(send: Send, arrivals: Sequence[float], clock: Clock) -> Load:
    """Send a call at each time, counted from now, however many are unanswered.

    Latency counts from the time in `arrivals`: a stall delays every call that was due in it, and
    each shows it (no coordinated omission).
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
    """Keep callers calling in a closed loop while the block runs; what they sent is answered.

    Gives the samples so far.
    """
    samples: list[Sample] = []
    stopped = False
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_call_until(lambda: stopped, send, samples, clock))
        try:
            yield samples
        finally:
            stopped = True


def join_loads(loads: Sequence[Load]) -> Load:
    """Put loads that followed one another together as one."""
    seconds = sum(load.seconds for load in loads)
    cpu_seconds = sum(load.generator_cpu * load.seconds for load in loads)
    samples = tuple(sample for load in loads for sample in load.samples)
    return Load(samples, seconds, cpu_seconds / seconds if seconds > 0 else 0.0)


async def _call_until(
    over: Callable[[], bool], send: Send, samples: list[Sample], clock: Clock
) -> None:
    while not over():
        sent = clock.now()
        answer = await send()
        samples.append(Sample(sent, sent, clock.now(), answer))
        if answer.code != OK:
            await clock.sleep_until(clock.now() + REFUSAL_PAUSE_SECONDS)


def _load(samples: Sequence[Sample], begin: float, cpu: float, clock: Clock) -> Load:
    seconds = max((sample.answered for sample in samples), default=clock.now()) - begin
    used = time.process_time() - cpu
    return Load(tuple(samples), seconds, used / seconds if seconds > 0 else 0.0)
