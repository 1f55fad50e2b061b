from __future__ import annotations

import asyncio
import gc
from typing import Any

from kshot.server.errors import QueueFull
from kshot.server.progress import Progress, Stage
from kshot.server.rpc.progress_messages import told
from kshot.v1 import adaptation_pb2 as wire

NEVER = 60.0


def test_a_slow_reader_gets_few_messages_with_all_losses() -> None:
    progress, steps = Progress(NEVER), 1000

    async def adapt() -> wire.AdaptResponse:
        progress.begin_loop(Stage.ADAPTING, "tiny", steps)
        for _ in range(steps):
            progress.add([0.5])
            await asyncio.sleep(0)
        progress.enter(Stage.STORING)
        return wire.AdaptResponse(deduplicated=True)

    async def read() -> list[wire.AdaptStreamResponse]:
        return [response async for response in told(progress, adapt())]

    first, loop, storing, last = asyncio.run(read())

    assert first.progress.stage == wire.ADAPT_STAGE_QUEUED
    assert len(loop.progress.support_loss) == loop.progress.step_count == steps
    assert storing.progress.stage == wire.ADAPT_STAGE_STORING
    assert last.result.deduplicated


def test_leaving_cancels_the_work() -> None:
    cancelled = []

    async def adapt() -> wire.AdaptResponse:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return wire.AdaptResponse()

    async def leave() -> None:
        messages = told(Progress(NEVER), adapt())
        await anext(messages)
        await asyncio.sleep(0)  # the work begins
        await messages.aclose()

    asyncio.run(leave())

    assert cancelled == [True]


def test_a_failure_after_the_reader_left_is_no_error_of_the_server() -> None:
    """The caller is gone: asyncio has nobody to tell of it but the log."""
    complaints: list[dict[str, Any]] = []

    async def adapt() -> wire.AdaptResponse:
        raise QueueFull

    async def leave() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: complaints.append(context))
        messages = told(Progress(NEVER), adapt())
        await anext(messages)
        await asyncio.sleep(0)  # the work fails
        await messages.aclose()
        del messages
        gc.collect()

    asyncio.run(leave())

    assert complaints == []
