"""Compiled inner steps that keep parameters in the order of their products."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner.steps.inner_step import InnerStep


class ParameterOrder(ABC):
    """An order of a task's parameters; equal ones are the same order."""

    @abstractmethod
    def copy(self, vectors: Tensor, target: Tensor, *, entering: bool) -> None:
        """Copy `(T, P)` parameters, or what belongs to them, into this order or out of it.

        The target is contiguous.
        """

    def enter(self, vectors: Tensor) -> Tensor:
        """Return a copy in this order."""
        return self._copied(vectors, entering=True)

    def leave(self, vectors: Tensor) -> Tensor:
        """Undo `enter`."""
        return self._copied(vectors, entering=False)

    def _copied(self, vectors: Tensor, *, entering: bool) -> Tensor:
        target = torch.empty_like(vectors, memory_format=torch.contiguous_format)
        self.copy(vectors, target, entering=entering)
        return target


@dataclass(frozen=True)
class OrderedStep:
    """An `InnerStep` around one that has its own order of parameters and scales.

    Each call reorders both, twice: a loop of steps takes `step` itself and reorders at its ends.
    """

    step: InnerStep
    order: ParameterOrder

    def __call__(self, parameters: Tensor, scale: Tensor, *others: Tensor) -> Tensor:
        """Take a step, as an `InnerStep` does."""
        ordered = [self.order.enter(vectors) for vectors in (parameters, scale)]
        losses = self.step(*ordered, *others)
        for vectors, moved in zip((parameters, scale), ordered, strict=True):
            self.order.copy(moved, vectors, entering=False)
        return losses


def common_order(steps: Iterable[InnerStep]) -> ParameterOrder | None:
    """Return the order that all steps share, None where one of them has the plain order."""
    orders = [step.order if isinstance(step, OrderedStep) else None for step in steps]
    return orders[0] if all(order == orders[0] for order in orders) else None


def in_order(step: InnerStep, order: ParameterOrder | None) -> InnerStep:
    """Return the step for parameters in an order: that of `common_order`."""
    return step.step if order is not None and isinstance(step, OrderedStep) else step
