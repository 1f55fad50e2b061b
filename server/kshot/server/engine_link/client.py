"""The front's side of the engine's protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from kshot.bundle import BundleError
from kshot.bundle.signals.tracing import TRACEPARENT
from kshot.internal.v1 import engine_pb2 as wire
from kshot.internal.v1 import engine_pb2_grpc as wire_grpc
from kshot.server.call_context import (
    counting_failed_tasks,
    current_progress,
    current_traceparent,
)
from kshot.server.errors import DeadlineExceeded, DeviceMemoryFull, EngineUnavailable
from kshot.server.request.options import AdaptOptions

Floats = npt.NDArray[np.float32]

# Loading measures, and runs a task; tasks of others come in between.
_LOAD_SECONDS = 120.0
# It ends, or has forgotten the bundle.
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.FAILED_PRECONDITION,
)
_REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # One engine, one connection: never the one that another channel of this process keeps.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


@dataclass(frozen=True)
class EngineFacts:
    """An engine's description; `digests` are those of the bundles that it can adapt.

    `tail_seconds` are, by digest, those of a tail's step for each example. `process_count` counts
    the processes that are described together.
    """

    device: str
    device_name: str
    torch_version: str
    compute_path: str
    digests: frozenset[str]
    tail_seconds: Mapping[str, float] = field(default_factory=dict)
    compiling_step_count: int = 0
    device_count: int = 1
    process_count: int = 1
    slot_count: int = 0
    busy_slot_count: int = 0


@dataclass(frozen=True)
class TailTask:
    """The steps of a tail, and the maps of crops `(crop_count, n, channels, height, width)`."""

    step_count: int
    fold_step_count: int
    crop_maps: Floats


@dataclass(frozen=True)
class EngineTask:
    """An inner loop to run: a prepared support set `(n, channels, height, width)` and options.

    `tail` is there where a tail shall adapt behind the head. Tasks of different callers take turns.
    """

    model: str
    bundle_digest: str
    support: Floats
    class_indices: tuple[int, ...]
    way: int
    options: AdaptOptions
    tail: TailTask | None = None
    caller: str = ""


@dataclass(frozen=True)
class EngineResult:
    """The result of an inner loop; `seconds` counts the computing without the waiting.

    `held_out_logits` `(support_count, way)` are those of each example without it, if there are any.
    """

    parameters: Mapping[str, Floats]
    statistics: Mapping[str, Floats]
    step_count: int
    stop_reason: str
    support_loss: tuple[float, ...]
    support_accuracy: float
    seconds: float
    compute_path: str
    slot_bucket: int
    held_out_logits: Floats | None = None
    tail_failed: bool = False


class EngineClient:
    """A connection to one engine process; made on the event loop that uses it."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._stub: wire_grpc.EngineServiceAsyncStub = wire_grpc.EngineServiceStub(self._channel)  # type: ignore[assignment]  # typed for blocking channels

    async def describe(self) -> EngineFacts:
        """Wait until the engine answers and return its description."""
        return _facts(
            await self._stub.DescribeEngine(wire.DescribeEngineRequest(), wait_for_ready=True)
        )

    async def probe(self, seconds: float) -> EngineFacts | None:
        """Return the engine's description if it answers within `seconds`, while it computes too."""
        try:
            return _facts(
                await self._stub.DescribeEngine(wire.DescribeEngineRequest(), timeout=seconds)
            )
        except grpc.aio.AioRpcError:
            return None

    async def adapt(self, task: EngineTask, timeout: float | None) -> EngineResult:
        """Run an inner loop; cancelling this stops it. The call's progress gets its losses.

        Raises `EngineUnavailable`, `DeadlineExceeded` or `DeviceMemoryFull`.
        """
        try:
            # This copies the whole support set: keep it off the event loop.
            request = await asyncio.to_thread(_request, task)
            with counting_failed_tasks():
                response = await self._adapt(request, timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise DeadlineExceeded from error
            if error.code() in _GONE:
                raise EngineUnavailable from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise DeviceMemoryFull from error
            raise
        except grpc.aio.UsageError as error:  # the channel was closed before the call began
            raise EngineUnavailable from error
        except asyncio.CancelledError:
            if (task_now := asyncio.current_task()) and task_now.cancelling():
                raise
            # The channel was closed under this call: the engine is gone, the caller is not.
            raise EngineUnavailable from None
        return _result(response)

    async def _adapt(self, request: wire.AdaptRequest, timeout: float | None) -> wire.AdaptResponse:
        progress = current_progress()
        if progress is None:
            return await self._stub.Adapt(request, timeout=timeout, metadata=_metadata())
        asked = wire.AdaptWithProgressRequest(task=request)
        # Half of the time between two messages to the caller: its news are never much older.
        asked.interval.FromNanoseconds(round(1e9 * progress.interval / 2))
        call = self._stub.AdaptWithProgress(asked, timeout=timeout, metadata=_metadata())
        try:
            async for event in call:
                if event.HasField("result"):
                    return event.result
                progress.add(event.progress.support_loss)
        finally:
            call.cancel()  # in vain once it has ended
        raise EngineUnavailable

    async def load(self, path: Path, digest: str) -> Mapping[str, float]:
        """Load a bundle; return its `EngineFacts.tail_seconds`.

        Raises `BundleError`, or `EngineUnavailable`.
        """
        request = wire.LoadBundleRequest(path=str(path), bundle_digest=digest)
        try:
            response = await self._stub.LoadBundle(request, timeout=_LOAD_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSED:
                raise BundleError(f"{path}: the engine: {error.details()}") from error
            raise EngineUnavailable from error
        except grpc.aio.UsageError as error:
            raise EngineUnavailable from error
        return _tail_seconds([response.model])

    async def unload(self, digest: str) -> None:
        """Forget a bundle; an engine that is gone has forgotten it."""
        with suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
            await self._stub.UnloadBundle(
                wire.UnloadBundleRequest(bundle_digest=digest), timeout=_LOAD_SECONDS
            )

    async def close(self) -> None:
        """End the connection and the calls on it."""
        await self._channel.close()


def _metadata() -> tuple[tuple[str, str], ...] | None:
    """Return what continues this call's trace in the engine."""
    traceparent = current_traceparent()
    return ((TRACEPARENT, traceparent),) if traceparent else None


def _facts(message: wire.DescribeEngineResponse) -> EngineFacts:
    return EngineFacts(
        device=message.device,
        device_name=message.device_name,
        torch_version=message.torch_version,
        compute_path=message.compute_path,
        digests=frozenset(item.bundle_digest for item in message.models),
        tail_seconds=_tail_seconds(message.models),
        compiling_step_count=message.compiling_step_count,
        device_count=message.device_count,
        slot_count=message.slot_count,
        busy_slot_count=message.busy_slot_count,
    )


def _tail_seconds(models: Iterable[wire.EngineModel]) -> dict[str, float]:
    return {
        item.bundle_digest: item.tail_example_seconds
        for item in models
        if item.tail_example_seconds > 0
    }


def _request(task: EngineTask) -> wire.AdaptRequest:
    needed = wire.AdaptRequest.DESCRIPTOR.fields_by_name
    options: dict[str, Any] = {
        name: value for name, value in vars(task.options).items() if name in needed
    }
    return wire.AdaptRequest(
        model=task.model,
        bundle_digest=task.bundle_digest,
        support=_tensor(task.support),
        class_indices=task.class_indices,
        way=task.way,
        tail=None if task.tail is None else _tail(task.tail),
        caller=task.caller,
        **options,
    )


def _tail(tail: TailTask) -> wire.TailTask:
    return wire.TailTask(
        step_count=tail.step_count,
        fold_step_count=tail.fold_step_count,
        crop_maps=_tensor(tail.crop_maps),
    )


def _tensor(array: Floats) -> wire.Tensor:
    return wire.Tensor(shape=array.shape, data=np.asarray(array, "<f4", order="C").tobytes())


def _result(response: wire.AdaptResponse) -> EngineResult:
    return EngineResult(
        parameters=_arrays(response.parameters),
        statistics=_arrays(response.statistics),
        step_count=response.step_count,
        stop_reason=wire.StopReason.Name(response.stop_reason).removeprefix("STOP_REASON_"),
        support_loss=tuple(response.support_loss),
        support_accuracy=response.support_accuracy,
        seconds=response.compute_time.ToNanoseconds() / 1e9,
        compute_path=response.compute_path,
        slot_bucket=response.slot_bucket,
        held_out_logits=(
            _array(response.held_out_logits) if response.HasField("held_out_logits") else None
        ),
        tail_failed=response.tail_failed,
    )


def _arrays(tensors: Iterable[wire.NamedTensor]) -> dict[str, Floats]:
    return {tensor.name: _array(tensor) for tensor in tensors}


def _array(tensor: wire.NamedTensor | wire.Tensor) -> Floats:
    flat = np.frombuffer(tensor.data, "<f4")
    return flat.reshape(tuple(tensor.shape)).astype(np.float32, copy=False)
