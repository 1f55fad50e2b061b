"""A task in its slot: its inner step, its start there, and its result."""

import math
import time

import torch
from torch import Tensor

from kshot.bundle import Preconditioner
from kshot.engine.models import LoadedModel
from kshot.engine.task import EngineResult, EngineTask, StopReason
from kshot.learner import (
    Network,
    SlotResult,
    SlotTask,
    Statistics,
    StepRule,
    StepSpec,
    balanced_indices,
    cycling_indices,
    layout_of,
    logits_of,
)


def step_rule(model: LoadedModel, preconditioner: Preconditioner, learning_rate: float) -> StepRule:
    """Return the constants of a task's inner steps."""
    return StepRule.of(model.bundle.manifest.inner_loop, preconditioner, learning_rate)


def step_spec(model: LoadedModel, task: EngineTask) -> StepSpec:
    """Describe the inner step that a task needs."""
    rule = step_rule(model, task.preconditioner, task.learning_rate)
    manifest = model.bundle.manifest
    bucket = manifest.way_bucket(task.way)
    return StepSpec.of(manifest, bucket, task.batch_size, rule, task.scope.of_steps)


def slot_task(model: LoadedModel, task: EngineTask) -> SlotTask:
    """Move a task to the model's device, ready to join its slots."""
    support = torch.from_numpy(task.support).to(model.device)
    classes = torch.from_numpy(task.classes).to(model.device)
    dealt = task.batch_size, task.step_count, task.seed
    if task.balance_classes:
        indices = balanced_indices(torch.from_numpy(task.classes), *dealt)
    else:
        indices = cycling_indices(len(task.classes), *dealt)
    return SlotTask(
        model.start(task.way, task.head, task.preconditioner, support, classes),
        support,
        classes,
        indices.to(model.device),
        step_rule(model, task.preconditioner, task.learning_rate),
    )


def finish(
    model: LoadedModel,
    way: int,
    started: SlotTask,
    result: SlotResult,
    stop_reason: StopReason,
    *,
    began: float,
    compute_path: str,
) -> EngineResult:
    """Add statistics and accuracy on the support set to the parameters that left a slot.

    The computing began when `time.perf_counter` showed `began`, and ends here.
    """
    losses = tuple(result.losses.tolist())
    stepped = bool(losses) or started.step_count == 0

    def without_arrays(reason: StopReason) -> EngineResult:
        seconds = time.perf_counter() - began
        return EngineResult(
            {}, {}, len(losses), reason, losses, 0.0, seconds, compute_path, result.width
        )

    if not (_finite(result.losses) and _finite(result.parameters)):
        return without_arrays(StopReason.DIVERGED)
    if stop_reason is StopReason.CANCELLED or not stepped:
        return without_arrays(stop_reason)
    network = model.initialization.network
    padded = started.state.layout.split(result.parameters[None])
    shapes = layout_of(network, way).shapes
    # without the padding of the head
    parameters = {name: padded[name][:, : shape[0]] for name, shape in shapes.items()}
    # On its own support set, transductive and frozen statistics are the same.
    if result.answers is not None:
        logits, statistics = _named(network, way, *result.answers)
    else:
        with torch.no_grad():
            logits, statistics = logits_of(network, parameters, started.support[None])
    if not all(_finite(value) for value in statistics.values()):
        return without_arrays(StopReason.DIVERGED)
    accuracy = int((logits[0].argmax(dim=1) == started.classes).sum()) / len(started.classes)
    adapted, frozen = (
        {name: value[0].cpu().numpy() for name, value in named.items()}
        for named in (parameters, statistics)
    )
    held_out = None if losses else started.state.held_out_logits
    return EngineResult(
        adapted,
        frozen,
        len(losses),
        stop_reason,
        losses,
        accuracy,
        time.perf_counter() - began,
        compute_path,
        result.width,
        None if held_out is None else held_out.cpu().numpy(),
    )


def _named(
    network: Network, way: int, logits: Tensor, statistics: Tensor
) -> tuple[Tensor, Statistics]:
    """Bring a slot's answers into the form of `logits_of`."""
    shapes = network.statistics_shapes
    parts = torch.split(statistics, [math.prod(shape) for shape in shapes.values()])
    named = {
        name: part.reshape(1, *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    return logits[None, :, :way], named


def _finite(values: Tensor) -> bool:
    """Tell whether all are finite, in one pass: the extremes of numbers with NaN are NaN."""
    if not values.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
