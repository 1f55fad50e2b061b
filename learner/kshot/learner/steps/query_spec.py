"""The description of a query gradient: all its code depends on but the tensors' numbers."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Head, NetworkSpec
from kshot.learner.networks.network import (
    Network,
    build_network,
    initial_parameters,
    layout_of,
)
from kshot.learner.steps.query_gradient import QueryGradient, build_query_gradient
from kshot.learner.steps.step_spec import tuned_network


@dataclass(frozen=True)
class QuerySpec:
    """The gradient of `task_count` tasks' queries; `displaced` where inner steps came before.

    Raises `ValueError`, when it is built, for a head or a mode that has none.
    """

    network: NetworkSpec
    input_shape: tuple[int, int, int]
    batch_norm_epsilon: float
    way: int
    support_count: int
    query_count: int
    head: Head
    batch_norm_mode: BatchNormMode
    displaced: bool
    task_count: int = 1

    @cached_property
    def text(self) -> str:
        """Return the description as one line; equal specs have equal lines."""
        return json.dumps({"query_gradient": asdict(self)}, sort_keys=True)

    def build(self, tuned_for: torch.device | None = None) -> QueryGradient:
        """Build the gradient; tuned for a device it is in the form that compiles to the fastest."""
        network = tuned_network(self._network(), tuned_for)
        return build_query_gradient(
            network,
            layout_of(network, self.way),
            self.head,
            self.batch_norm_mode,
            displaced=self.displaced,
        )

    def example_arguments(self, device: torch.device) -> tuple[Tensor, ...]:
        """Make the arguments of a `QueryGradient` on a small random task, the same each time."""
        generator = torch.Generator().manual_seed(0)
        network, tasks = self._network(), self.task_count
        parameters = initial_parameters(network, self.way, generator)
        vectors = layout_of(network, self.way).join(parameters).repeat(tasks, 1)
        arguments = [vectors, 0.01 * torch.randn(vectors.shape, generator=generator)]
        for count in (self.support_count, self.query_count):
            arguments.append(torch.rand(tasks, count, *self.input_shape, generator=generator))
            arguments.append((torch.arange(count) % self.way).repeat(tasks, 1))
        return tuple(argument.to(device) for argument in arguments)

    def of_tasks(self, task_count: int) -> Self:
        """Describe the same gradient of another number of tasks."""
        return replace(self, task_count=task_count)

    def _network(self) -> Network:
        return build_network(self.network, self.input_shape, self.batch_norm_epsilon)
