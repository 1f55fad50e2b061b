"""The inner loop: T tasks, each with its own parameters, take their steps together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner.steps.cuda_graphs import GraphedStep
from kshot.learner.steps.initialization import LoopState
from kshot.learner.steps.inner_step import InnerStep
from kshot.learner.steps.ordered_step import common_order, in_order
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.step_tables import StepTables


@dataclass(frozen=True)
class InnerLoopResult:
    """The adapted state, and the loss of each step before its update `(steps, T)`."""

    state: LoopState
    losses: Tensor


def run_inner_loop(
    step: InnerStep,
    state: LoopState,
    support: Tensor,
    targets: Tensor,
    indices: Tensor,
    rule: StepRule,
) -> InnerLoopResult:
    """Adapt T tasks to their support sets; the state given is left as it is.

    `support` `(T, n, channels, height, width)`, `targets` `(T, n)`, `indices` int64
    `(T, steps, batch)`: the examples each step sees. A task that diverges ends with numbers that
    are not finite: nothing here looks at them, and on a GPU nothing waits for the device.
    """
    task_count, step_count, _ = indices.shape
    # Contiguous, as batches are: a compiled step does not look at strides.
    parameters = state.parameters.clone(memory_format=torch.contiguous_format)
    scale = rule.scale_of(state.second_moment).contiguous()
    order = common_order([step])
    if order is not None:
        parameters, scale = order.enter(parameters), order.enter(scale)
    step_sizes = torch.tensor(rule.step_sizes(state.step, step_count), dtype=parameters.dtype)
    if parameters.device.type == "cuda":  # from pinned memory: the host does not wait
        step_sizes = step_sizes.pin_memory().to(parameters.device, non_blocking=True)
    step_sizes = step_sizes.unsqueeze(1).repeat(1, task_count)  # (steps, T)
    way_mask = state.real_ways.contiguous()
    arguments = parameters, scale, way_mask, support, targets, indices, step_sizes
    if isinstance(step, GraphedStep) and step_count:
        losses = step.take_steps(*arguments)
    else:
        losses = StepTables.of(*arguments).take_steps(in_order(step, order))
    if order is not None:
        parameters, scale = order.leave(parameters), order.leave(scale)
    adapted = LoopState(
        state.layout,
        parameters,
        scale if rule.updates_second_moment else state.second_moment,
        rule.steps_taken(state.step, step_count),
        state.way_mask,
    )
    return InnerLoopResult(adapted, losses)
