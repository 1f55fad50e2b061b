from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest

from kshot.server.call_context import begin_call
from kshot.server.engine_link import client as module
from kshot.server.engine_link.client import EngineClient, EngineTask
from kshot.server.errors import DeviceMemoryFull


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_task_that_does_not_end_well_counts(
    monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Else a tenant could compute as much as it likes and leave just before the answer."""
    monkeypatch.setattr(module, "_request", lambda _task: None)
    task = EngineTask("m", "d", np.empty((0, 1, 1, 1), np.float32), (), 0, cast(Any, None))

    async def ask() -> float:
        call, begun = begin_call("Adapt"), asyncio.Event()

        async def compute(*_: object, **__: object) -> None:
            begun.set()
            if cancelled:
                await asyncio.Event().wait()
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, nothing, nothing)

        engine = EngineClient("/nowhere")
        engine._stub = cast(Any, SimpleNamespace(Adapt=compute))
        job = asyncio.create_task(engine.adapt(task, None))
        await begun.wait()
        if cancelled:
            job.cancel()
        with pytest.raises(asyncio.CancelledError if cancelled else DeviceMemoryFull):
            await job
        await engine.close()
        return call.engine_seconds

    assert asyncio.run(ask()) > 0
