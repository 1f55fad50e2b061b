"""The update rules of inner steps: Adam without momentum, in several forms, and plain SGD."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import InnerLoop, Preconditioner


@dataclass(frozen=True)
class StepRule:
    """The constants of an inner step.

    `carried` and `fresh` differ only in the v and the step that they start from.
    `weight_decay_rate` multiplies the parameters before each step; 1 leaves them as they are.
    """

    preconditioner: Preconditioner
    learning_rate: float
    second_moment_decay: float = 0.999
    epsilon: float = 1e-8
    weight_decay_rate: float = 1.0

    @staticmethod
    def of(
        inner: InnerLoop, preconditioner: Preconditioner, learning_rate: float | None = None
    ) -> "StepRule":
        """Take the constants of a bundle, and its learning rate where none is given."""
        return StepRule(
            preconditioner,
            inner.learning_rate if learning_rate is None else learning_rate,
            inner.second_moment_decay,
            inner.epsilon,
            1.0 if inner.weight_decay_rate is None else inner.weight_decay_rate,
        )

    def step_size(self, step: int) -> float:
        """Return the learning rate with Adam's bias correction before the step-th update.

        Kingma and Ba 2015, section 2, last paragraph, with beta1 = 0:
        `alpha_t = alpha * sqrt(1 - beta2 ** t)`; epsilon stays outside the correction, as in the
        paper's TensorFlow. A frozen v of step 0 has seen nothing: its correction is taken as 1.
        """
        if self.preconditioner is Preconditioner.SGD or step == 0:
            return self.learning_rate
        return self.learning_rate * math.sqrt(1 - self.second_moment_decay**step)

    def step_sizes(self, start: int, count: int) -> list[float]:
        """Return the sizes of `count` updates after Adam's step `start`."""
        return [self.step_size(self.steps_taken(start, done)) for done in range(1, count + 1)]

    def steps_taken(self, start: int, count: int) -> int:
        """Return Adam's step t after `count` updates from `start`."""
        return start + count if self.updates_second_moment else start

    @property
    def updates_second_moment(self) -> bool:
        """Tell whether v follows the gradients."""
        return self.preconditioner in (Preconditioner.CARRIED, Preconditioner.FRESH)

    def scale_of(self, second_moment: Tensor) -> Tensor:
        """Return a new tensor that scales gradients: v if it follows them, else a fixed rate.

        The rate of each parameter is `1 / (sqrt(v) + epsilon)` when v is frozen, 1 with SGD: such
        a step keeps no state of an optimizer.
        """
        if self.updates_second_moment:
            return second_moment.clone()
        if self.preconditioner is Preconditioner.SGD:
            return torch.ones_like(second_moment)
        return (second_moment.sqrt() + self.epsilon).reciprocal()

    def update(
        self, parameters: Tensor, scale: Tensor, gradient: Tensor, step_sizes: Tensor
    ) -> None:
        """Take one step in place; all tensors `(T, P)`, step sizes `(T, 1)`.

        Where v follows the gradients, `v <- beta2 v + (1 - beta2) g^2`, then
        `p <- p - alpha_t g / (sqrt(v) + epsilon)`; else `p <- p - alpha_t g rate`.
        """
        if self.updates_second_moment:
            decay = self.second_moment_decay
            scale.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
            parameters.sub_(step_sizes * gradient / (torch.sqrt(scale) + self.epsilon))
        else:
            parameters.sub_(step_sizes * gradient * scale)
