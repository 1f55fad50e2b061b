"""The inner loop: T tasks, each with its own parameters, take their steps together."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import Scope
from kshot.learner.initialization import LoopState
from kshot.learner.layout import ParameterLayout
from kshot.learner.network import Network, logits_of
from kshot.learner.preconditioner import StepRule

InnerStep = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]
]
"""(parameters, second moment, inputs, targets, way mask, step size) -> (parameters, v, loss)."""


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


def task_losses(logits: Tensor, targets: Tensor, way_mask: Tensor | None) -> Tensor:
    """Average the cross-entropy of ``(T, n, way)`` logits over each task's examples: ``(T,)``."""
    if way_mask is not None:
        logits = logits.masked_fill(~way_mask.unsqueeze(1), -torch.inf)
    per_example = functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return per_example.reshape(targets.shape).mean(dim=1)


def loss_gradients(
    network: Network,
    layout: ParameterLayout,
    parameters: Tensor,
    inputs: Tensor,
    targets: Tensor,
    way_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Differentiate each task's loss with respect to its own parameters: ``(T, P)`` and ``(T,)``.

    The losses are summed over tasks first: no task's loss depends on another's parameters, so one
    backward pass gives every task its own gradient.
    """

    def total_loss(vectors: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = logits_of(network, layout.split(vectors), inputs)
        losses = task_losses(logits, targets, way_mask)
        return losses.sum(), losses.detach()

    if torch.compiler.is_compiling():  # the compiler traces torch.func, eager autograd is faster
        gradient, losses = torch.func.grad(total_loss, has_aux=True)(parameters)
        return gradient, losses
    leaf = parameters.detach().requires_grad_()
    with torch.enable_grad():
        total, losses = total_loss(leaf)
        (gradient,) = torch.autograd.grad(total, leaf)
    return gradient, losses


def build_inner_step(
    network: Network, layout: ParameterLayout, rule: StepRule, scope: Scope = Scope.ALL
) -> InnerStep:
    """Build the function of one inner step; scope ``head`` leaves the body as it is."""
    body_size = layout.body_size

    def step(
        parameters: Tensor,
        second_moment: Tensor,
        inputs: Tensor,
        targets: Tensor,
        way_mask: Tensor | None,
        step_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient, losses = loss_gradients(network, layout, parameters, inputs, targets, way_mask)
        stepped, moment = rule.update(parameters, second_moment, gradient, step_size)
        if scope is Scope.HEAD:
            stepped = torch.cat([parameters[:, :body_size], stepped[:, body_size:]], dim=1)
            moment = torch.cat([second_moment[:, :body_size], moment[:, body_size:]], dim=1)
        return stepped, moment, losses

    return step


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
    """Adapt T tasks to their support sets.

    ``support`` ``(T, n, channels, height, width)``, ``classes`` int64 ``(T, n)``, ``indices`` int64
    ``(T, steps, batch)``: the examples each step sees. ``should_stop`` is asked before each step.
    With ``watch_divergence`` the loop ends as ``DIVERGED`` at the first loss, or with parameters,
    that are not finite in any task; a trainer turns it off, for it waits for the device.
    """
    task_count, step_count, _ = indices.shape
    rows = torch.arange(task_count, device=support.device).unsqueeze(1)
    parameters, second_moment = state.parameters, state.second_moment
    losses: list[Tensor] = []
    stop_reason = StopReason.COMPLETED
    for done in range(step_count):
        wanted = should_stop(done)
        if wanted is not None:
            stop_reason = wanted
            break
        drawn = indices[:, done]
        step_size = rule.step_size(rule.steps_taken(state.step, done + 1))
        parameters, second_moment, loss = step(
            parameters,
            second_moment,
            support[rows, drawn],
            classes[rows, drawn],
            state.way_mask,
            torch.tensor(step_size, dtype=parameters.dtype, device=parameters.device),
        )
        losses.append(loss)
        if watch_divergence and not torch.isfinite(loss).all().item():
            stop_reason = StopReason.DIVERGED
            break
    if watch_divergence and not torch.isfinite(parameters).all().item():
        stop_reason = StopReason.DIVERGED
    adapted = LoopState(
        state.layout,
        parameters,
        second_moment,
        rule.steps_taken(state.step, len(losses)),
        state.way_mask,
    )
    stacked = torch.stack(losses) if losses else support.new_empty(0, task_count)
    return InnerLoopResult(adapted, stacked, stop_reason)
