"""Pools of threads for blocking work: predictions, the images of adaptations, the disk."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from kshot.server.call_context import current_call, current_caller, current_connection
from kshot.server.event_log import LOGGER
from kshot.server.fair_pool import FairPool

Result = TypeVar("Result")

_STORE_THREADS = 4


class Workers:
    """Three pools of threads beside the event loop; in each, callers take turns."""

    def __init__(self) -> None:
        cores = os.cpu_count() or 1
        self._compute = FairPool(cores, "kshot-compute")
        # A pool of its own, so that predictions never wait for the images of adaptations.
        self._prepare = FairPool(max(1, cores // 2), "kshot-prepare")
        self._store = FairPool(_STORE_THREADS, "kshot-store")
        self._jobs: set[Future[Any]] = set()

    async def compute(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for predictions, in this call's context; the wait counts as `queue`.

        Long work calls `Call.check` from time to time: a thread cannot be stopped from outside, and
        others come in between.
        """
        return await self._run(self._compute, function)

    def submit_compute(
        self, function: Callable[[], Result], caller: str, connection: str = ""
    ) -> Future[Result]:
        """Run on the pool for predictions, in a caller's turn, without counting the time."""
        return self._keep(self._compute.submit(caller, function, connection))

    async def prepare(self, function: Callable[[], Result]) -> Result:
        """Run as `compute` does, on the pool for the images of adaptations."""
        return await self._run(self._prepare, function)

    async def _run(self, pool: FairPool, function: Callable[[], Result]) -> Result:
        asked = time.perf_counter()
        context = contextvars.copy_context()

        def work() -> Result:
            current_call().add("queue", time.perf_counter() - asked)
            current_call().check()
            return function()

        return await asyncio.wrap_future(self._submit(pool, lambda: context.run(work)))

    async def store(self, function: Callable[[], Result]) -> Result:
        """Run on the pool for the disk; wait and work count as `store`."""
        with current_call().measure("store"):
            return await asyncio.wrap_future(self._submit(self._store, function))

    async def brief(self, function: Callable[[], Result]) -> Result:
        """Run short work on the pool for the disk, without counting its time."""
        return await asyncio.wrap_future(self._submit(self._store, function))

    def store_later(self, function: Callable[[], None]) -> None:
        """Run on the pool for the disk without waiting; failures go to the log."""
        self._submit(self._store, function).add_done_callback(_log_failure)

    async def close(self) -> None:
        """Drop waiting jobs, wait for running ones, and accept no more."""
        for pool in (self._compute, self._prepare):
            pool.close()
        while running := tuple(self._jobs):
            await asyncio.gather(*map(asyncio.wrap_future, running), return_exceptions=True)
        self._store.close()

    def _submit(self, pool: FairPool, function: Callable[[], Result]) -> Future[Result]:
        return self._keep(pool.submit(current_caller(), function, current_connection()))

    def _keep(self, job: Future[Result]) -> Future[Result]:
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job


def _log_failure(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()):
        LOGGER.error("failure", exc_info=error)
