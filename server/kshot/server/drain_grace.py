"""The time that a shutdown may take, shared by everything that has to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


class Grace:
    """A span of time that begins at its first use and is over once `hurry` is set."""

    def __init__(self, seconds: float, hurry: asyncio.Event) -> None:
        self._seconds = seconds
        self._hurry = hurry
        self._end: float | None = None

    def remaining(self) -> float:
        """Return the remaining seconds."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._seconds
        return 0.0 if self._hurry.is_set() else max(0.0, self._end - now)

    async def wait(self, work: Coroutine[Any, Any, None], at_least: float = 0.0) -> None:
        """Wait for `work` until the grace is over, but `at_least` that long; then cancel it."""
        working = asyncio.ensure_future(work)
        hurrying = asyncio.ensure_future(self._hurry.wait())
        timeout = self.remaining()
        await asyncio.wait(
            (working, hurrying), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if at_least:
            await asyncio.wait((working,), timeout=at_least)
        for task in (working, hurrying):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
