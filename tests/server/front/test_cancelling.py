"""Many calls whose callers leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest

from kshot.server.config import ServerConfig
from kshot.server.server import running
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from tests.server.front.fake_engine import HANG_IN_FOLDS

ROUNDS, SIDE_BY_SIDE = 10, 10


@pytest.fixture
def hanging(adapt_request: Callable[..., wire.AdaptRequest]) -> Callable[[int], wire.AdaptRequest]:
    """Make a request that the engine never answers; every second one has an id of its own."""

    def make(number: int) -> wire.AdaptRequest:
        request = adapt_request(seed=HANG_IN_FOLDS)
        if number % 2:
            request.request_id = str(UUID(int=number, version=4))
        return request

    return make


async def leave(stub: Any, number: int, request: wire.AdaptRequest) -> None:  # noqa: ANN401 -- typed for blocking channels
    """Begin `Adapt` and `AdaptStream`; cancel both while the stream's inner loop runs."""
    plain = stub.Adapt(request, timeout=60)
    again = wire.AdaptRequest()
    again.CopyFrom(request)
    if again.request_id:
        again.request_id = str(UUID(int=10**6 + number, version=4))
    stream = stub.AdaptStream(wire.AdaptStreamRequest(adapt=again), timeout=60)
    async for response in stream:
        if response.progress.stage == wire.ADAPT_STAGE_ADAPTING:
            break
    stream.cancel()
    plain.cancel()
    for call in (plain, stream):
        assert await call.code() is grpc.StatusCode.CANCELLED


def of_calls(before: Set[asyncio.Task[Any]]) -> Set[asyncio.Task[Any]]:
    """Return the tasks since then, without those in which gRPC waits for the next call."""
    waiting = {"AioServer._request_call", "AioServer._request_registered_call"}
    return {
        task
        for task in asyncio.all_tasks() - before
        if getattr(task.get_coro(), "__qualname__", "") not in waiting
    }


def test_200_cancelled_calls_leave_no_task(
    make_config: Callable[..., ServerConfig],
    pipes: Path,  # noqa: ARG001 -- the fake engine needs it
    hanging: Callable[[int], wire.AdaptRequest],
) -> None:
    """Server and client share the event loop here, so neither may leave any."""

    async def main() -> None:
        stop, hurry = asyncio.Event(), asyncio.Event()
        async with running(make_config(), stop, hurry) as ready:
            assert ready is not None
            async with grpc.aio.insecure_channel(str(ready["grpc"])) as channel:
                stub: Any = AdaptationServiceStub(channel)
                await stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30)
                before = asyncio.all_tasks()

                for start in range(0, ROUNDS * SIDE_BY_SIDE, SIDE_BY_SIDE):
                    numbers = range(start, start + SIDE_BY_SIDE)
                    await asyncio.gather(*(leave(stub, each, hanging(each)) for each in numbers))

                async with asyncio.timeout(60):  # a task that stays makes this fail
                    while left := of_calls(before):
                        await asyncio.wait(left)
                kept = await stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=30)
                assert not kept.adapted_models

    asyncio.run(main())
