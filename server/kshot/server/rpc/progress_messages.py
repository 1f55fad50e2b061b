"""The messages of `AdaptStream`: states of progress, then the result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any

from kshot.server.errors import InvalidRequest
from kshot.server.progress import Progress, Stage, State
from kshot.v1 import adaptation_pb2 as wire

_DEFAULT_SECONDS = 0.1
_LEAST_SECONDS, _MOST_SECONDS = 0.02, 60.0
_STAGES = {
    Stage.QUEUED: wire.ADAPT_STAGE_QUEUED,
    Stage.PREPARING: wire.ADAPT_STAGE_PREPARING,
    Stage.ADAPTING: wire.ADAPT_STAGE_ADAPTING,
    Stage.ESTIMATING: wire.ADAPT_STAGE_ESTIMATING,
    Stage.STORING: wire.ADAPT_STAGE_STORING,
}


def progress_interval(request: wire.AdaptStreamRequest) -> float:
    """Return the seconds between two messages; raise `InvalidRequest`."""
    if not request.HasField("progress_interval"):
        return _DEFAULT_SECONDS
    duration = request.progress_interval
    seconds = duration.seconds + duration.nanos / 1e9
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        expected = f"expected {_LEAST_SECONDS:g} to {_MOST_SECONDS:g} s"
        raise InvalidRequest.about("progress_interval", f"{expected}, got {seconds:g} s")
    return seconds


async def told(
    progress: Progress, adapt: Coroutine[Any, Any, wire.AdaptResponse]
) -> AsyncGenerator[wire.AdaptStreamResponse, None]:
    """Adapt in a task of its own; yield its states, then its result. Closing this cancels it."""
    work = asyncio.ensure_future(adapt)
    # Where it fails after the caller has left, nobody asks for the error.
    work.add_done_callback(lambda work: work.cancelled() or work.exception())
    try:
        while not work.done():
            for state in progress.news():
                yield _progress_response(state)
            await asyncio.wait([work], timeout=progress.interval)
        response = work.result()
        for state in progress.news():
            yield _progress_response(state)
        yield wire.AdaptStreamResponse(result=response)
    finally:
        if not work.done():
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


def _progress_response(state: State) -> wire.AdaptStreamResponse:
    return wire.AdaptStreamResponse(
        progress=wire.AdaptProgress(
            model=state.model,
            stage=_STAGES[state.stage],
            step_count=state.step_count,
            total_step_count=state.total_step_count,
            support_loss=state.losses,
        )
    )
