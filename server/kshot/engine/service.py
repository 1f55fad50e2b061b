"""The engine's service: calls become jobs of the scheduler."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import grpc
import torch

from kshot.bundle import BundleError
from kshot.bundle.signals.tracing import Tracer
from kshot.engine.budget import Budget
from kshot.engine.device import DeviceDescription, ran_out_of_memory
from kshot.engine.loading import Models
from kshot.engine.models import LoadedModel
from kshot.engine.pool import Job
from kshot.engine.scheduler import Scheduler
from kshot.engine.task import EngineResult, StopReason
from kshot.engine.task_span import task_span
from kshot.engine.tuning import Tuning
from kshot.engine.wire import decode_task, encode_result
from kshot.internal.v1 import engine_pb2, engine_pb2_grpc

EXIT_DEVICE_FAILED = 70
# A round of steps that takes longer hangs; the front learns it from a refused description.
STALL_SECONDS = 60.0
_log = logging.getLogger(__name__)

AdaptContext = grpc.aio.ServicerContext[engine_pb2.AdaptRequest, engine_pb2.AdaptResponse]
ProgressContext = grpc.aio.ServicerContext[
    engine_pb2.AdaptWithProgressRequest, engine_pb2.AdaptWithProgressResponse
]
DescribeContext = grpc.aio.ServicerContext[
    engine_pb2.DescribeEngineRequest, engine_pb2.DescribeEngineResponse
]
LoadContext = grpc.aio.ServicerContext[engine_pb2.LoadBundleRequest, engine_pb2.LoadBundleResponse]
UnloadContext = grpc.aio.ServicerContext[
    engine_pb2.UnloadBundleRequest, engine_pb2.UnloadBundleResponse
]


class EngineService(engine_pb2_grpc.EngineServiceServicer):
    """Answers the front."""

    def __init__(
        self,
        models: Models,
        device: DeviceDescription,
        scheduler: Scheduler,
        tuning: Tuning,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._models = models
        self._device = device
        self._scheduler = scheduler
        self._tuning = tuning

    async def DescribeEngine(  # noqa: N802 -- the name on the wire
        self, _request: engine_pb2.DescribeEngineRequest, context: DescribeContext
    ) -> engine_pb2.DescribeEngineResponse:
        """Describe the device and the models, unless the computing hangs."""
        if (stalled := self._scheduler.stalled_seconds()) > STALL_SECONDS:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, f"a step has been running for {stalled:.0f} seconds"
            )
        slot_count, busy_slot_count = self._scheduler.slots()
        return engine_pb2.DescribeEngineResponse(
            slot_count=slot_count,
            busy_slot_count=busy_slot_count,
            device=self._device.kind,
            device_name=self._device.name,
            torch_version=torch.__version__,
            compute_path=self._tuning.compute_path(),
            compiling_step_count=self._tuning.compiling_count(),
            device_count=self._device.count,
            models=map(self._described, self._models),
        )

    async def LoadBundle(  # noqa: N802 -- the name on the wire
        self, request: engine_pb2.LoadBundleRequest, context: LoadContext
    ) -> engine_pb2.LoadBundleResponse:
        """Load a further bundle."""
        try:
            model = await asyncio.to_thread(
                self._models.load, Path(request.path), request.bundle_digest
            )
        except BundleError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "the device has too little memory for it"
            )
        self._models.tune(model)
        return engine_pb2.LoadBundleResponse(model=self._described(model))

    async def UnloadBundle(  # noqa: N802 -- the name on the wire
        self, request: engine_pb2.UnloadBundleRequest, _context: UnloadContext
    ) -> engine_pb2.UnloadBundleResponse:
        """Forget a bundle."""
        await asyncio.to_thread(self._models.unload, request.bundle_digest)
        return engine_pb2.UnloadBundleResponse()

    def _described(self, model: LoadedModel) -> engine_pb2.EngineModel:
        return engine_pb2.EngineModel(
            model=model.name,
            bundle_digest=model.bundle.digest,
            tail_example_seconds=self._models.tail_seconds(model),
        )

    async def Adapt(  # noqa: N802 -- the name on the wire
        self, request: engine_pb2.AdaptRequest, context: AdaptContext
    ) -> engine_pb2.AdaptResponse:
        """Adapt one task."""
        return await self._adapt(request, context)

    async def AdaptWithProgress(  # noqa: N802 -- the name on the wire
        self, request: engine_pb2.AdaptWithProgressRequest, context: ProgressContext
    ) -> AsyncIterator[engine_pb2.AdaptWithProgressResponse]:
        """Adapt one task, and tell its losses on the way."""
        losses: list[float] = []
        answer = asyncio.ensure_future(self._adapt(request.task, context, losses))
        # Where it fails after the caller has left, nobody asks for the error.
        answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        interval, told = request.interval.ToNanoseconds() / 1e9, 0
        try:
            while not answer.done():
                await asyncio.wait([answer], timeout=interval)
                known = len(losses)
                if known > told:
                    progress = engine_pb2.AdaptProgress(support_loss=losses[told:known])
                    yield engine_pb2.AdaptWithProgressResponse(progress=progress)
                told = known
            yield engine_pb2.AdaptWithProgressResponse(result=answer.result())
        finally:
            if not answer.done():
                answer.cancel()
                with suppress(asyncio.CancelledError):
                    await answer

    async def _adapt(
        self,
        request: engine_pb2.AdaptRequest,
        context: AdaptContext | ProgressContext,
        losses: list[float] | None = None,
    ) -> engine_pb2.AdaptResponse:
        """Adapt one task; note the loss of each step."""
        model = self._models.find(request.bundle_digest)
        if model is None or model.name != request.model:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {request.model} with bundle {request.bundle_digest} is not loaded",
            )
        try:
            task = decode_task(request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        remaining = context.time_remaining()
        budget = Budget(remaining, request.allow_partial)
        with task_span(self._tracer, model, task, context.invocation_metadata()) as note:
            result = await self._compute(Job(model, task, budget, losses), context)
            note(result)
        if result.stop_reason is StopReason.CANCELLED:
            await context.abort(grpc.StatusCode.CANCELLED, "the caller left")
        partial = result.stop_reason is StopReason.TIME_BUDGET
        if partial and not (request.allow_partial and result.parameters):
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the deadline passed after {result.step_count} of {task.step_count} steps",
            )
        return encode_result(result)

    async def _compute(self, job: Job, context: AdaptContext | ProgressContext) -> EngineResult:
        try:
            return await asyncio.wrap_future(self._scheduler.submit_job(job))
        except asyncio.CancelledError:
            job.budget.cancelled.set()
            raise
        except ValueError as error:
            return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except torch.AcceleratorError:
            _exit_after_device_failure()
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
        return await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "the device has too little memory for this task"
        )


def _exit_after_device_failure() -> NoReturn:
    """Leave at once: after such an error no call on the device works in this process."""
    _log.exception("device_failed")
    os._exit(EXIT_DEVICE_FAILED)
