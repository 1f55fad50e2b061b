"""What the code of a query gradient depends on: everything but the numbers in its tensors."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Head, NetworkSpec
from kshot.learner.networks.network import Network, build_network, layout_of
from kshot.learner.steps.query_gradient import QueryGradient, build_query_gradient
from kshot.learner.steps.step_spec import tuned_network


@dataclass(frozen=True)
class QuerySpec:
    """The gradient of ``task_count`` tasks' queries; ``displaced`` where inner steps came before.

    Raises ``ValueError``, when it is built, for a head or a mode that has none.
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
        """Make arguments of the right shapes and types for a ``QueryGradient``."""
        tasks = self.task_count
        vectors = torch.zeros(tasks, layout_of(self._network(), self.way).size, device=device)
        arguments = [vectors, vectors.clone()]
        for count in (self.support_count, self.query_count):
            arguments.append(torch.zeros(tasks, count, *self.input_shape, device=device))
            arguments.append(torch.zeros(tasks, count, dtype=torch.int64, device=device))
        return tuple(arguments)

    def of_tasks(self, task_count: int) -> Self:
        """Describe the same gradient of another number of tasks."""
        return replace(self, task_count=task_count)

    def _network(self) -> Network:
        return build_network(self.network, self.input_shape, self.batch_norm_epsilon)
