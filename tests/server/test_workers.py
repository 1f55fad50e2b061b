from __future__ import annotations

import asyncio
import os
import threading

import pytest

from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled
from kshot.server.workers import Workers


def test_work_of_a_call_that_has_ended_does_not_begin() -> None:
    async def main() -> None:
        workers = Workers()
        begin_call("Predict").ended = True
        with pytest.raises(CallCancelled):
            await workers.compute(lambda: pytest.fail("it ran"))
        await workers.close()

    asyncio.run(main())


def test_a_close_waits_for_what_runs() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        done.set()

    async def main() -> None:
        workers = Workers()
        begin_call("Predict")
        working = asyncio.ensure_future(workers.compute(work))
        closing = asyncio.ensure_future(workers.close())
        workers.store_later(go.set)
        await closing
        assert done.is_set()
        await working

    asyncio.run(main())


def test_predictions_do_not_wait_for_decoding() -> None:
    go = threading.Event()

    async def main() -> None:
        workers = Workers()
        begin_call("Adapt")
        many = range(2 * (os.cpu_count() or 1))
        preparing = [asyncio.ensure_future(workers.prepare(go.wait)) for _ in many]
        await workers.compute(go.set)
        await asyncio.gather(*preparing)
        await workers.close()

    asyncio.run(main())
