"""One inner step of T tasks: a gradient by autograd and an update in place."""

from collections.abc import Callable

import torch
from torch import Tensor

from kshot.bundle import Scope
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import Network, logits_of
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.task_losses import Objective, task_losses

InnerStep = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(parameters, scale, inputs, targets, way mask, step sizes) -> losses `(T,)`.

Parameters and scale `(T, P)` are updated in place; inputs `(T, batch, channels, height,
width)`, targets `(T, batch)`, int64 for cross-entropy and float32 for squared error, way mask
bool `(T, way)`, step sizes `(T,)`; all contiguous.
`StepRule.scale_of` says what the scale is.
"""


def loss_gradients(
    network: Network,
    layout: ParameterLayout,
    parameters: Tensor,
    inputs: Tensor,
    targets: Tensor,
    way_mask: Tensor,
    scope: Scope = Scope.ALL,
    objective: Objective = Objective.CROSS_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Differentiate each task's loss with respect to its own parameters: `(T, P)` and `(T,)`.

    With scope `head` or `auto` only with respect to the head's, `(T, P - body)`: nothing goes back
    through the body. The losses are summed over tasks first: no task's loss depends on another's
    parameters, so one backward pass gives every task its own gradient.
    """
    start = first_adapted(layout, scope)
    leaf = parameters[:, start:].detach().clone().requires_grad_()
    with torch.enable_grad():
        vectors = torch.cat([parameters[:, :start].detach(), leaf], dim=1) if start else leaf
        outputs, _ = logits_of(network, layout.split(vectors), inputs)
        losses = task_losses(outputs, targets, way_mask, objective)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return gradient, losses.detach()


def first_adapted(layout: ParameterLayout, scope: Scope) -> int:
    """Return the index of the first adapted parameter."""
    return 0 if scope is Scope.ALL else layout.body_size


def build_inner_step(
    network: Network,
    layout: ParameterLayout,
    rule: StepRule,
    scope: Scope = Scope.ALL,
    objective: Objective = Objective.CROSS_ENTROPY,
) -> InnerStep:
    """Build the function of one inner step; scope `head` leaves the body as it is.

    Weights decay before the gradient is taken, as the paper's code has it.
    """
    start = first_adapted(layout, scope)

    def step(
        parameters: Tensor,
        scale: Tensor,
        inputs: Tensor,
        targets: Tensor,
        way_mask: Tensor,
        step_sizes: Tensor,
    ) -> Tensor:
        if rule.weight_decay_rate != 1:
            parameters[:, start:].mul_(rule.weight_decay_rate)
        gradient, losses = loss_gradients(
            network, layout, parameters, inputs, targets, way_mask, scope, objective
        )
        rule.update(parameters[:, start:], scale[:, start:], gradient, step_sizes.unsqueeze(1))
        return losses

    return step
