"""How a gradient becomes a step: Adam without momentum in its served forms, or plain SGD."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import Preconditioner


@dataclass(frozen=True)
class StepRule:
    """The constants of an inner step.

    ``carried`` and ``fresh`` differ only in the v and the step that they start from.
    """

    preconditioner: Preconditioner
    learning_rate: float
    second_moment_decay: float = 0.999
    epsilon: float = 1e-8

    def step_size(self, step: int) -> float:
        """Return the learning rate with Adam's bias correction before the step-th update.

        Kingma and Ba 2015, section 2, last paragraph, with beta1 = 0:
        ``alpha_t = alpha * sqrt(1 - beta2 ** t)``; epsilon stays outside the correction, as in the
        paper's TensorFlow. A frozen v of step 0 has seen nothing: its correction is taken as 1.
        """
        if self.preconditioner is Preconditioner.SGD or step == 0:
            return self.learning_rate
        return self.learning_rate * math.sqrt(1 - self.second_moment_decay**step)

    def steps_taken(self, start: int, count: int) -> int:
        """Return Adam's step t after ``count`` updates from ``start``."""
        return start + count if self.updates_second_moment else start

    @property
    def updates_second_moment(self) -> bool:
        """Tell whether v follows the gradients."""
        return self.preconditioner in (Preconditioner.CARRIED, Preconditioner.FRESH)

    def update(
        self, parameters: Tensor, second_moment: Tensor, gradient: Tensor, step_size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take one step; all tensors ``(T, P)``, step size ``()``.

        ``v <- beta2 v + (1 - beta2) g^2`` where v is updated, then
        ``p <- p - alpha_t g / (sqrt(v) + epsilon)``; SGD: ``p <- p - alpha g``.
        """
        if self.preconditioner is Preconditioner.SGD:
            return parameters - step_size * gradient, second_moment
        if self.updates_second_moment:
            decay = self.second_moment_decay
            second_moment = decay * second_moment + (1 - decay) * gradient * gradient
        update = gradient / (torch.sqrt(second_moment) + self.epsilon)
        return parameters - step_size * update, second_moment
