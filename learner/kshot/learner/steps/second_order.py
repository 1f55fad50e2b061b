"""Second-order gradients through the inner loop (MAML)."""

import torch
from torch import Tensor

from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import Network, logits_of
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.task_losses import Objective, task_losses

Batch = tuple[Tensor, Tensor]
"""Inputs `(T, batch, channels, height, width)` and targets `(T, batch)`."""


def maml_gradient(
    network: Network,
    layout: ParameterLayout,
    parameters: Tensor,
    steps: list[Batch],
    last: Batch,
    rule: StepRule,
    objective: Objective = Objective.CROSS_ENTROPY,
) -> tuple[Tensor, Tensor]:
    """Differentiate the loss on the last batch through the SGD steps before it.

    `g_MAML = U_1'(phi_1) ... U_{k-1}'(phi_{k-1}) L_k'(phi_k)` with
    `U_i(phi) = phi - a L_i'(phi)` (Nichol et al. 2018, the analysis), the mean over T tasks that
    all start from `parameters` `(P,)`. Returns the gradient `(P,)` and each task's loss on
    its last batch `(T,)`.
    """
    task_count, way = last[1].shape[0], layout.shapes["head.bias"][0]
    mask = torch.ones(task_count, way, dtype=torch.bool, device=parameters.device)

    def losses_of(vectors: Tensor, batch: Batch) -> Tensor:
        outputs, _ = logits_of(network, layout.split(vectors), batch[0])
        return task_losses(outputs, batch[1], mask, objective)

    def loss_after_steps(vector: Tensor) -> tuple[Tensor, Tensor]:
        vectors = vector.expand(task_count, -1)
        for batch in steps:
            # Summed over tasks: no task's loss depends on another's parameters.
            decayed = vectors * rule.weight_decay_rate

            def loss(vectors: Tensor, batch: Batch = batch) -> Tensor:
                return losses_of(vectors, batch).sum()

            vectors = decayed - rule.learning_rate * torch.func.grad(loss)(decayed)
        losses = losses_of(vectors, last)
        return losses.mean(), losses

    gradient, losses = torch.func.grad(loss_after_steps, has_aux=True)(parameters)
    return gradient, losses.detach()
