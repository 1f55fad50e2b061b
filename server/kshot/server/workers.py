"""Threads for what blocks: images and predictions on one pool, the disk on another."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from kshot.server.call import current_call
from kshot.server.json_log import LOGGER

Result = TypeVar("Result")

_STORE_THREADS = 4


class Workers:
    """Two bounded pools of threads, beside the event loop."""

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(os.cpu_count() or 1, "kshot-compute")
        self._store = ThreadPoolExecutor(_STORE_THREADS, "kshot-store")

    async def compute(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for computing, in this call's context; the wait counts as `queue`."""
        return await _run(self._compute, function)

    async def store(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for the disk; wait and work count as `store`."""
        with current_call().measure("store"):
            return await asyncio.get_running_loop().run_in_executor(self._store, function)

    def store_later(self, function: Callable[[], None]) -> None:
        """Run on the pool for the disk, for nobody who waits; failures go to the log."""
        self._store.submit(function).add_done_callback(_log_failure)

    def close(self) -> None:
        """Wait for what runs and drop what waits."""
        self._compute.shutdown(cancel_futures=True)
        self._store.shutdown()


def _log_failure(done: Future[None]) -> None:
    if error := done.exception():
        LOGGER.error("failure", exc_info=error)


async def _run(pool: ThreadPoolExecutor, function: Callable[[], Result]) -> Result:
    asked = time.perf_counter()
    context = contextvars.copy_context()

    def work() -> Result:
        current_call().add("queue", time.perf_counter() - asked)
        return function()

    return await asyncio.get_running_loop().run_in_executor(pool, context.run, work)
