import math

import pytest
import torch
from torch import Tensor

from kshot.learner import Objective, task_losses

MASK = torch.ones(2, 3, dtype=torch.bool)


def test_cross_entropy_is_the_mean_surprise_of_each_task() -> None:
    """Equal logits are log way; by hand: log(1 + 2/e) where the right logit is 1 above two."""
    logits = torch.zeros(2, 2, 3, dtype=torch.float64)
    logits[1, 0, 2] = 1.0

    losses = task_losses(logits, torch.tensor([[0, 1], [2, 2]]), MASK)

    lower = math.log(1 + 2 / math.e)
    assert losses.tolist() == pytest.approx([math.log(3), (lower + math.log(3)) / 2], abs=1e-12)


def test_masked_classes_take_no_part() -> None:
    """Neither in the loss nor in its gradient, whatever their logits are."""
    mask = torch.tensor([[True, True, False]])
    logits = torch.tensor([[[0.5, -0.5, 50.0]]], dtype=torch.float64, requires_grad=True)

    loss = task_losses(logits, torch.tensor([[1]]), mask)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)

    assert loss.item() == pytest.approx(math.log(1 + math.e), abs=1e-12)
    assert gradient[0, 0, 2] == 0


def test_squared_error_is_the_mean_over_each_tasks_examples() -> None:
    outputs = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    targets = torch.tensor([[0.0, 1.0], [0.0, -4.0]])

    losses = task_losses(outputs, targets, MASK[:, :1], Objective.SQUARED_ERROR)

    assert losses.tolist() == [2.5, 8.0]


@pytest.mark.parametrize("objective", list(Objective))
def test_no_tasks_loss_depends_on_another_task(objective: Objective) -> None:
    way = 3 if objective is Objective.CROSS_ENTROPY else 1

    def losses(outputs: Tensor) -> Tensor:
        wanted = torch.tensor([[0, 2], [1, 1]])
        targets = wanted if objective is Objective.CROSS_ENTROPY else wanted.float()
        return task_losses(outputs, targets, MASK[:, :way], objective)

    outputs = torch.randn(2, 2, way, generator=torch.Generator().manual_seed(1))
    spoiled = outputs.clone()
    spoiled[0] = torch.nan

    assert torch.equal(losses(spoiled)[1], losses(outputs)[1])
    assert losses(spoiled)[0].isnan()
