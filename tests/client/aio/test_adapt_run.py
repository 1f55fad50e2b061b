"""Adaptations that tell an event loop how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from google.rpc.code_pb2 import Code

from kshot.client import (
    AdaptProgress,
    AsyncAdaptRun,
    AsyncClient,
    CancelledError,
    InputError,
    UnavailableError,
)

if TYPE_CHECKING:
    from conftest import FakeServicer

IMAGES = np.zeros((2, 6, 5), np.uint8)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture
def client(address: str, runner: asyncio.Runner) -> Iterator[AsyncClient]:
    opened = AsyncClient(address, timeout=10)
    yield opened
    runner.run(opened.close())


def test_progress_comes_before_the_result(client: AsyncClient, runner: asyncio.Runner) -> None:
    async def follow() -> list[AdaptProgress]:
        async with client.adapt_stream(IMAGES, [3, 4], model="omniglot") as run:
            progress = [each async for each in run]
            assert await run.result() is await run.result()
        assert (await run.result()).labels == (3, 4)
        return progress

    assert runner.run(follow()) == [
        AdaptProgress("omniglot", "adapting", 1, 2, (1.0,)),
        AdaptProgress("omniglot", "adapting", 2, 2, (0.5,)),
    ]


def test_leaving_the_block_cancels(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    async def leave() -> AsyncAdaptRun:
        async with client.adapt_stream(IMAGES, [3, 4]) as run:
            async for progress in run:
                assert progress.step_count == 1
                break
        return run

    servicer.stalled = True
    run = runner.run(leave())
    assert servicer.left.wait(60)
    with pytest.raises(CancelledError, match="cancelled before it was done"):
        runner.run(run.result())
    assert servicer.kept == {}


def test_another_task_cancels(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    """Whoever waits for progress sees its end, and is not cancelled itself."""

    async def cancel() -> None:
        run = client.adapt_stream(IMAGES, [3, 4])
        await anext(run)
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0)
        run.cancel()
        await waiting

    async def give_up() -> None:
        run = client.adapt_stream(IMAGES, [3, 4])
        await anext(run)
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await run.result()

    servicer.stalled = True
    with pytest.raises(CancelledError, match="cancelled before it was done"):
        runner.run(cancel())
    servicer.left.clear()
    with pytest.raises(CancelledError, match="cancelled before it was done"):
        runner.run(give_up())
    assert servicer.left.wait(60)


def test_failures_are_those_of_adapt(
    client: AsyncClient, servicer: FakeServicer, runner: asyncio.Runner
) -> None:
    with pytest.raises(InputError, match="labels: expected one for each of 2 images, got 1"):
        runner.run(client.adapt_stream(IMAGES, [3]).result())
    servicer.refuse(Code.UNAVAILABLE, "not now")
    with pytest.raises(UnavailableError):
        runner.run(client.adapt_stream(IMAGES, [3, 4]).result())
