import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
import torch

from kshot.engine.device import choose_device, ran_out_of_memory
from kshot.engine.service import EngineService


def no_memory() -> None:
    torch.empty(2**60)


def test_the_processors_memory_may_run_out_too() -> None:
    """Torch has no type for that error."""
    with pytest.raises(RuntimeError) as caught:
        no_memory()

    assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("no memory"))
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(RuntimeError("shapes do not fit"))
    assert not ran_out_of_memory(ValueError("DefaultCPUAllocator"))


def test_a_task_that_does_not_fit_into_memory_is_refused() -> None:
    class AbortedError(Exception):
        pass

    def submit(*_: object) -> "Future[None]":
        failed: Future[None] = Future()
        try:
            no_memory()
        except RuntimeError as error:
            failed.set_exception(error)
        return failed

    async def abort(code: grpc.StatusCode, _text: str) -> None:
        raise AbortedError(code)

    service = EngineService(
        cast(Any, None),
        choose_device("cpu"),
        cast(Any, SimpleNamespace(submit_job=submit)),
        cast(Any, None),
    )
    context = cast(Any, SimpleNamespace(abort=abort))
    nothing = cast(Any, None)

    with pytest.raises(AbortedError) as caught:
        asyncio.run(service._compute(nothing, context))

    assert caught.value.args == (grpc.StatusCode.RESOURCE_EXHAUSTED,)
