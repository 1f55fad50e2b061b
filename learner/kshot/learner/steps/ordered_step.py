"""Compiled inner steps that keep parameters in the order of their products."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kshot.learner.layout import ParameterLayout
from kshot.learner.steps.inner_step import InnerStep


@dataclass(frozen=True)
class ParameterOrder:
    """The order of a layout's parameters with kernels as `(height, width, channels, filters)`."""

    layout: ParameterLayout

    @cached_property
    def _entering(self) -> Tensor:
        """The plain place of each parameter in this order, int64 `(P,)`."""
        places = self.layout.split(torch.arange(self.layout.size)[None])
        parts = (
            part[0].permute(2, 3, 1, 0) if part.dim() == 5 else part[0] for part in places.values()
        )
        return torch.cat([part.flatten() for part in parts])

    @cached_property
    def _leaving(self) -> Tensor:
        return self._entering.argsort()

    def enter(self, vectors: Tensor) -> Tensor:
        """Copy `(T, P)` parameters, or what belongs to them, into this order."""
        return vectors.index_select(1, self._entering)

    def leave(self, vectors: Tensor) -> Tensor:
        """Undo `enter`."""
        return vectors.index_select(1, self._leaving)


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
            vectors.copy_(self.order.leave(moved))
        return losses


def common_order(steps: Iterable[InnerStep]) -> ParameterOrder | None:
    """Return the order that all steps share, None where one of them has the plain order."""
    orders = [step.order if isinstance(step, OrderedStep) else None for step in steps]
    return orders[0] if all(order == orders[0] for order in orders) else None


def in_order(step: InnerStep, order: ParameterOrder | None) -> InnerStep:
    """Return the step for parameters in an order: that of `common_order`."""
    return step.step if order is not None and isinstance(step, OrderedStep) else step
