"""Threads for what blocks: images and predictions on one pool, the disk on another."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from kshot.server.call import current_call
from kshot.server.json_log import LOGGER

Result = TypeVar("Result")

_STORE_THREADS = 4


class Workers:
    """Two bounded pools of threads, beside the event loop."""

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(os.cpu_count() or 1, "kshot-compute")
        self._store = ThreadPoolExecutor(_STORE_THREADS, "kshot-store")
        self._jobs: set[Future[Any]] = set()

    async def compute(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for computing, in this call's context; the wait counts as `queue`.

        What is long asks `Call.check` from time to time: a thread cannot be stopped from outside.
        """
        asked = time.perf_counter()
        context = contextvars.copy_context()

        def work() -> Result:
            current_call().add("queue", time.perf_counter() - asked)
            current_call().check()
            return function()

        return await asyncio.wrap_future(self._submit(self._compute, lambda: context.run(work)))

    async def store(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for the disk; wait and work count as `store`."""
        with current_call().measure("store"):
            return await asyncio.wrap_future(self._submit(self._store, function))

    def store_later(self, function: Callable[[], None]) -> None:
        """Run on the pool for the disk, for nobody who waits; failures go to the log."""
        self._submit(self._store, function).add_done_callback(_log_failure)

    async def close(self) -> None:
        """Drop the computing that waits, wait for what runs, and take nothing more."""
        self._compute.shutdown(wait=False, cancel_futures=True)
        while running := tuple(self._jobs):
            await asyncio.gather(*map(asyncio.wrap_future, running), return_exceptions=True)
        self._store.shutdown(wait=False)

    def _submit(self, pool: ThreadPoolExecutor, function: Callable[[], Result]) -> Future[Result]:
        job = pool.submit(function)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job


def _log_failure(done: Future[None]) -> None:
    if error := done.exception():
        LOGGER.error("failure", exc_info=error)
