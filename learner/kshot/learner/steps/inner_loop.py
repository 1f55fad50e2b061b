"""The inner loop: T tasks, each with its own parameters, take their steps together."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner.steps.graphs import GraphedStep
from kshot.learner.steps.initialization import LoopState
from kshot.learner.steps.inner_step import InnerStep, batch_of, take_steps
from kshot.learner.steps.preconditioner import StepRule


class StopReason(enum.Enum):
    """Why an inner loop ended."""

    COMPLETED = "completed"
    TIME_BUDGET = "time_budget"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class InnerLoopResult:
    """Adapted state, the loss of each step before its update ``(steps, T)``, and why it ended."""

    state: LoopState
    losses: Tensor
    stop_reason: StopReason

    @property
    def step_count(self) -> int:
        """Steps done."""
        return self.losses.shape[0]


def never_stop(_step: int) -> StopReason | None:
    """Let the inner loop run to its end."""
    return None


def run_inner_loop(
    step: InnerStep,
    state: LoopState,
    support: Tensor,
    classes: Tensor,
    indices: Tensor,
    rule: StepRule,
    should_stop: Callable[[int], StopReason | None] = never_stop,
    *,
    watch_divergence: bool = True,
) -> InnerLoopResult:
    """Adapt T tasks to their support sets; the state given is left as it is.

    ``support`` ``(T, n, channels, height, width)``, ``classes`` int64 ``(T, n)``, ``indices`` int64
    ``(T, steps, batch)``: the examples each step sees. ``should_stop`` is asked before each step.
    With ``watch_divergence`` the loop ends as ``DIVERGED`` at the first loss, or with parameters,
    that are not finite in any task; a trainer turns it off, for it waits for the device.
    """
    task_count, step_count, _ = indices.shape
    # Contiguous, as batches are: a compiled step does not look at strides.
    parameters = state.parameters.clone(memory_format=torch.contiguous_format)
    scale = rule.scale_of(state.second_moment).contiguous()
    way_mask = state.real_ways.contiguous()
    step_sizes = torch.tensor(rule.step_sizes(state.step, step_count), dtype=parameters.dtype)
    if parameters.device.type == "cuda":  # from pinned memory: the host does not wait
        step_sizes = step_sizes.pin_memory().to(parameters.device, non_blocking=True)
    step_sizes = step_sizes.unsqueeze(1).repeat(1, task_count)  # (steps, T)
    arguments = parameters, scale, support, classes, indices, way_mask, step_sizes
    if step_count and not watch_divergence and should_stop is never_stop:
        stop_reason = StopReason.COMPLETED
        if isinstance(step, GraphedStep):
            losses = step.take_steps(*arguments)
        else:
            losses = take_steps(step, *arguments)
    else:
        losses, stop_reason = _steps_watched(step, arguments, should_stop, watch_divergence)
    if watch_divergence and not torch.isfinite(parameters).all().item():
        stop_reason = StopReason.DIVERGED
    adapted = LoopState(
        state.layout,
        parameters,
        scale if rule.updates_second_moment else state.second_moment,
        rule.steps_taken(state.step, len(losses)),
        state.way_mask,
    )
    return InnerLoopResult(adapted, losses, stop_reason)


def _steps_watched(
    step: InnerStep,
    arguments: tuple[Tensor, ...],
    should_stop: Callable[[int], StopReason | None],
    watch_divergence: bool,
) -> tuple[Tensor, StopReason]:
    """Take steps by the arguments of ``take_steps`` until one of them ends the loop."""
    parameters, scale, support, classes, indices, way_mask, step_sizes = arguments
    rows = torch.arange(len(indices), device=support.device).unsqueeze(1)
    losses: list[Tensor] = []
    stop_reason = StopReason.COMPLETED
    for done, drawn in enumerate(indices.unbind(1)):
        wanted = should_stop(done)
        if wanted is not None:
            stop_reason = wanted
            break
        batch = batch_of(support, classes, rows, drawn)
        loss = step(parameters, scale, *batch, way_mask, step_sizes[done])
        losses.append(loss)
        if watch_divergence and not torch.isfinite(loss).all().item():
            stop_reason = StopReason.DIVERGED
            break
    stacked = torch.stack(losses) if losses else support.new_empty(0, len(indices))
    return stacked, stop_reason
