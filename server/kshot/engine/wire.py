"""Conversion between the internal wire messages and the engine's own objects."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from kshot.bundle import Head, Preconditioner, Scope
from kshot.engine.task import EngineResult, EngineTask, StopReason, TailTask
from kshot.internal.v1 import engine_pb2

_STOP_REASONS = {
    StopReason.COMPLETED: engine_pb2.STOP_REASON_COMPLETED,
    StopReason.TIME_BUDGET: engine_pb2.STOP_REASON_TIME_BUDGET,
    StopReason.DIVERGED: engine_pb2.STOP_REASON_DIVERGED,
}


def decode_task(request: engine_pb2.AdaptRequest) -> EngineTask:
    """Read a request; raises `ValueError` when its fields are inconsistent."""
    return EngineTask(
        support=_array(request.support),
        classes=np.array(request.class_indices, dtype=np.int64),
        way=request.way,
        step_count=request.step_count,
        learning_rate=request.learning_rate,
        batch_size=request.batch_size,
        preconditioner=Preconditioner(request.preconditioner),
        head=Head(request.head),
        scope=Scope(request.scope),
        seed=request.seed,
        deterministic=request.deterministic,
        balance_classes=request.balance_classes,
        tail=_tail_task(request.tail) if request.HasField("tail") else None,
        caller=request.caller,
    )


def encode_result(result: EngineResult) -> engine_pb2.AdaptResponse:
    """Write the answer to a request."""
    response = engine_pb2.AdaptResponse(
        parameters=_named_tensors(result.parameters),
        statistics=_named_tensors(result.statistics),
        step_count=result.step_count,
        stop_reason=_STOP_REASONS[result.stop_reason],
        support_loss=result.support_losses,
        support_accuracy=result.support_accuracy,
        compute_path=result.compute_path,
        slot_bucket=result.slot_bucket,
        tail_failed=result.tail_failed,
    )
    if result.held_out_logits is not None:
        logits = result.held_out_logits
        response.held_out_logits.shape.extend(logits.shape)
        response.held_out_logits.data = logits.astype("<f4", copy=False).tobytes()
    response.compute_time.FromNanoseconds(round(result.compute_seconds * 1e9))
    return response


def _tail_task(task: engine_pb2.TailTask) -> TailTask:
    return TailTask(task.step_count, task.fold_step_count, _array(task.crop_maps))


def _array(tensor: engine_pb2.Tensor) -> npt.NDArray[np.float32]:
    """Copy numbers, so that torch may write to them."""
    numbers = np.frombuffer(tensor.data, dtype="<f4").astype(np.float32)
    return numbers.reshape(tuple(tensor.shape))


def _named_tensors(
    arrays: Mapping[str, npt.NDArray[np.float32]],
) -> Iterable[engine_pb2.NamedTensor]:
    return (
        engine_pb2.NamedTensor(
            name=name, shape=array.shape, data=array.astype("<f4", copy=False).tobytes()
        )
        for name, array in sorted(arrays.items())
    )
