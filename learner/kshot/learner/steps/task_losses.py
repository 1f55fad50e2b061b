"""Inner-loop losses of T tasks."""

from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional


class Objective(StrEnum):
    """Cross-entropy of classes, or the squared error of one real output."""

    CROSS_ENTROPY = "cross_entropy"
    SQUARED_ERROR = "squared_error"


def task_losses(
    outputs: Tensor,
    targets: Tensor,
    way_mask: Tensor,
    objective: Objective = Objective.CROSS_ENTROPY,
) -> Tensor:
    """Average a loss over each task's examples: `(T,)`.

    Cross-entropy takes logits `(T, n, way)` and int64 classes `(T, n)`; classes whose mask
    `(T, way)` is false take no part. Squared error takes outputs `(T, n, 1)` and float32
    targets `(T, n)`, and no heed of the mask.
    """
    if objective is Objective.SQUARED_ERROR:
        return (outputs.squeeze(2) - targets).square().mean(dim=1)
    masked = outputs.masked_fill(~way_mask.unsqueeze(1), -torch.inf)
    per_example = functional.cross_entropy(
        masked.flatten(0, 1), targets.flatten(), reduction="none"
    )
    return per_example.reshape(targets.shape).mean(dim=1)
