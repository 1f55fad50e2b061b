"""Bounded queues: how many calls may wait, and whether any is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from kshot.server.errors import QueueFull, ShuttingDown


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
