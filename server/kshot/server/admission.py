"""Bounded queues: how many calls may wait, whether any is left, and what they hold meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from kshot.server.call_context import current_call
from kshot.server.choice import prepared_bytes
from kshot.server.errors import QueueFull, ShuttingDown
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.images import believed
from kshot.server.request.inputs import Images

ShrinkRoom = Callable[[int], None]  # bytes of images that a call keeps


class Admission:
    """Counts the calls of one kind that run or wait, up to a limit; for one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._open = True
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place inside the block; raise `QueueFull` or `ShuttingDown` if there is none."""
        if not self._open:
            raise ShuttingDown
        if self._count >= self._limit:
            raise QueueFull
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    def close(self) -> None:
        """Admit no more calls."""
        self._open = False

    async def wait_idle(self) -> None:
        """Wait until no call is inside."""
        await self._idle.wait()


# Bytes of prepared images: of calls that are not large, and of those that are.
_SMALL_ROOM, _LARGE_ROOM = 2**27, 2**28
_SMALL = 2**24


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
    """

    def __init__(self, small: int = _SMALL_ROOM, large: int = _LARGE_ROOM) -> None:
        self._small, self._large = _Lane(small), _Lane(large)

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[ShrinkRoom]:
        """Hold room inside the block; waits for it in order of arrival, which counts as `queue`.

        Gives a function by which the block keeps so many bytes, and gives back the rest.
        """
        lane = self._small if size_bytes <= _SMALL else self._large
        held = min(size_bytes, lane.free_bytes + lane.held_bytes)
        asked = time.perf_counter()
        await lane.take(held)
        current_call().add("queue", time.perf_counter() - asked)

        def shrink(size_bytes: int) -> None:
            nonlocal held
            lane.give(held - min(held, size_bytes))
            held = min(held, size_bytes)

        try:
            yield shrink
        finally:
            shrink(0)


class _Lane:
    """Bytes that are given out in order of arrival."""

    def __init__(self, size_bytes: int) -> None:
        self.free_bytes, self.held_bytes = size_bytes, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> None:
        if not self._waiting and size_bytes <= self.free_bytes:
            self._move(size_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came together with the end of the call
                self.give(size_bytes)
            else:
                self._next()
            raise

    def give(self, size_bytes: int) -> None:
        self._move(-size_bytes)
        self._next()

    def _next(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.done():
                if size_bytes > self.free_bytes:
                    return
                self._move(size_bytes)
                turn.set_result(None)
            self._waiting.popleft()

    def _move(self, size_bytes: int) -> None:
        self.free_bytes -= size_bytes
        self.held_bytes += size_bytes
