"""Bounded queues: how many calls may wait, whether any is left, and what they hold meanwhile.

Of places and bytes nobody takes so much that nothing is left for a caller who comes later.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from kshot.bundle.turns import Turns
from kshot.server.call_context import current_call, current_caller, current_connection, until_sent
from kshot.server.choice import prepared_bytes
from kshot.server.errors import QueueFull, ShuttingDown, TooManyCalls
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.images import believed
from kshot.server.request.inputs import Images

ShrinkRoom = Callable[[int], None]  # bytes of images that a call keeps


class Admission:
    """Counts the calls of one kind that run or wait, up to a limit; for one event loop.

    A caller with many gets another place while two thirds are free beside his: one alone gets two
    thirds of all, two get two fifths each. A call has its place until its answer is sent.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._of_callers: Counter[str] = Counter()
        self._open = True
        self.admitted = 0
        """How many calls were admitted so far."""
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place inside the block.

        Raises `QueueFull` or `ShuttingDown` if there is none, or `TooManyCalls`.
        """
        if not self._open:
            raise ShuttingDown
        if self._count >= self._limit:
            raise QueueFull
        caller = current_caller()
        held = self._of_callers.get(caller, 0) + 1
        if held > max(_FEW_CALLS, 2 * (self._limit - self._count - 1)):
            raise TooManyCalls
        self._count += 1
        self.admitted += 1
        self._of_callers[caller] = held
        self._idle.clear()
        try:
            yield
        finally:
            until_sent(partial(self._leave, caller))

    @property
    def count(self) -> int:
        """Return how many calls are inside."""
        return self._count

    @property
    def limit(self) -> int:
        """Return how many calls may be inside."""
        return self._limit

    @property
    def is_idle(self) -> bool:
        """Tell whether no call is inside."""
        return self._count == 0

    def close(self) -> None:
        """Admit no more calls."""
        self._open = False

    async def wait_idle(self) -> None:
        """Wait until no call is inside."""
        await self._idle.wait()

    def _leave(self, caller: str) -> None:
        self._count -= 1
        _lower(self._of_callers, caller, 1)
        if self._count == 0:
            self._idle.set()


def _lower(counts: Counter[str], caller: str, by: int) -> None:
    counts[caller] -= by
    if not counts[caller]:
        counts.pop(caller)  # faster than `del`, which is Python


# So many calls of a caller are never too many.
_FEW_CALLS = 8

# Bytes of prepared images by the sizes of calls: up to how many, and the room for these.
_SMALL, _SMALL_ROOM = 2**24, 2**27
_MIDDLE, _MIDDLE_ROOM = 2**26, 2**27
_LARGE_ROOM = 2**28


def room_bytes(
    models: Sequence[ServedModel], support: Images | None, queries: Images | None = None
) -> int:
    """Return the bytes of a request's images; those that are refused unread need no room."""
    total = 0
    for model in models:
        limits = model.bundle.manifest.limits
        images = believed(support, limits.max_support_count)
        total += prepared_bytes([model], images, believed(queries, limits.max_query_count))
    return total


class ImageRoom:
    """Bounds the bytes of prepared images that calls hold while they wait; for one event loop.

    Small calls do not wait for large ones. A call that is larger than the room takes it alone.
    Callers take turns; further calls of one get no more than they leave free.
    """

    def __init__(self, small: int = _SMALL_ROOM, large: int = _LARGE_ROOM) -> None:
        self._small, self._middle, self._large = _Lane(small), _Lane(_MIDDLE_ROOM), _Lane(large)

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[ShrinkRoom]:
        """Hold room inside the block; the wait for it counts as `queue`.

        Gives a function by which the block keeps so many bytes, and gives back the rest.
        """
        lane = self._lane(size_bytes)
        caller = current_caller()
        held = min(size_bytes, lane.size_bytes)
        asked = time.perf_counter()
        await lane.take(caller, held)
        current_call().add("queue", time.perf_counter() - asked)

        def shrink(size_bytes: int) -> None:
            nonlocal held
            lane.give(caller, held - min(held, size_bytes))
            held = min(held, size_bytes)

        try:
            yield shrink
        finally:
            shrink(0)

    def _lane(self, size_bytes: int) -> _Lane:
        if size_bytes <= _SMALL:
            return self._small
        return self._middle if size_bytes <= _MIDDLE else self._large


@dataclass(eq=False)
class _Wanted:
    size_bytes: int
    turn: asyncio.Future[None]


class _Lane:
    """Bytes that are given out to callers in turn, in order of arrival to each."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.free_bytes = size_bytes
        self._held: Counter[str] = Counter()
        self._waiting: Turns[_Wanted] = Turns()

    async def take(self, caller: str, size_bytes: int) -> None:
        if not self._waiting and size_bytes <= self.free_bytes and self._fits(caller, size_bytes):
            self._grant(caller, size_bytes)
            self._waiting.served(caller)
            return
        wanted = _Wanted(size_bytes, asyncio.get_running_loop().create_future())
        self._waiting.add(caller, wanted, part=current_connection())
        self._next()
        try:
            await wanted.turn
        except asyncio.CancelledError:
            if wanted.turn.done() and not wanted.turn.cancelled():
                self.give(caller, size_bytes)  # it came together with the end of the call
            else:
                self._next()
            raise

    def give(self, caller: str, size_bytes: int) -> None:
        self.free_bytes += size_bytes
        _lower(self._held, caller, size_bytes)
        if self._waiting:
            self._next()

    def _next(self) -> None:
        while (caller := self._waiting.next(self._within_share)) is not None:
            wanted = self._waiting.first(caller)
            if wanted.turn.done():  # the call has ended
                self._waiting.drop(caller)
                continue
            if wanted.size_bytes > self.free_bytes:
                return  # others do not pass: it would never come
            self._waiting.take(caller)
            self._grant(caller, wanted.size_bytes)
            wanted.turn.set_result(None)

    def _grant(self, caller: str, size_bytes: int) -> None:
        self.free_bytes -= size_bytes
        self._held[caller] = self._held.get(caller, 0) + size_bytes

    def _within_share(self, caller: str) -> bool:
        return self._fits(caller, self._waiting.first(caller).size_bytes)

    def _fits(self, caller: str, size_bytes: int) -> bool:
        """Tell whether a caller holds nothing, or then no more than what is left free."""
        held = self._held.get(caller, 0)
        return not held or held + size_bytes <= self.free_bytes - size_bytes
