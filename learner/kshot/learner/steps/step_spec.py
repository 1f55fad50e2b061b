"""The description of an inner step: everything its code depends on but the tensors' numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from kshot.bundle import Manifest, NetworkSpec, Preconditioner, Scope
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import (
    Network,
    build_network,
    initial_parameters,
    layout_of,
)
from kshot.learner.steps.inner_step import InnerStep, build_inner_step
from kshot.learner.steps.preconditioner import StepRule
from kshot.learner.steps.task_losses import Objective


@runtime_checkable
class Tunable(Protocol):
    """A network that knows a faster form of itself."""

    def tuned(self, device: str) -> Network:
        """Return the same function in the form that takes inner steps fastest on `cpu|cuda`."""


def tuned_network(network: Network, tuned_for: torch.device | None) -> Network:
    """Return a network in the form that is fastest when compiled for a device, or as it is."""
    if tuned_for is not None and isinstance(network, Tunable):
        return network.tuned(tuned_for.type)
    return network


@dataclass(frozen=True)
class StepSpec:
    """An inner step of `task_count` tasks whose heads have `way` rows, padding included."""

    network: NetworkSpec
    input_shape: tuple[int, int, int]
    batch_norm_epsilon: float
    way: int
    batch_size: int
    updates_second_moment: bool
    second_moment_decay: float
    epsilon: float
    scope: Scope
    task_count: int = 1
    weight_decay_rate: float = 1.0
    objective: Objective = Objective.CROSS_ENTROPY

    @staticmethod
    def of(
        manifest: Manifest, way: int, batch_size: int, rule: StepRule, scope: Scope
    ) -> "StepSpec":
        """Describe the step of one task of a bundle."""
        return StepSpec(
            network=manifest.network,
            input_shape=manifest.network_input_shape,
            batch_norm_epsilon=manifest.batch_norm.epsilon,
            way=way,
            batch_size=batch_size,
            updates_second_moment=rule.updates_second_moment,
            second_moment_decay=rule.second_moment_decay,
            epsilon=rule.epsilon,
            scope=scope,
            weight_decay_rate=rule.weight_decay_rate,
        )

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "StepSpec":
        """Read what `document` wrote."""
        network = NetworkSpec(**document["network"])
        shape = tuple(document["input_shape"])
        choices = {
            "scope": Scope(document["scope"]),
            "objective": Objective(document["objective"]),
        }
        return StepSpec(**{**document, "network": network, "input_shape": shape, **choices})

    def document(self) -> dict[str, Any]:
        """Return the description, ready for JSON."""
        choices = {"scope": self.scope.value, "objective": self.objective.value}
        return asdict(self) | {"network": asdict(self.network), **choices}

    @cached_property
    def text(self) -> str:
        """Return the description as one line; equal specs have equal lines."""
        return json.dumps(self.document(), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.text)

    def of_tasks(self, task_count: int) -> Self:
        """Describe the same step of another number of tasks."""
        return replace(self, task_count=task_count)

    def layout(self) -> ParameterLayout:
        """Lay out the parameters of a task."""
        return layout_of(self._network(), self.way)

    def build(self, tuned_for: torch.device | None = None) -> InnerStep:
        """Build the step; tuned for a device it is in the form that compiles to the fastest."""
        network = tuned_network(self._network(), tuned_for)
        rule = StepRule(
            Preconditioner.CARRIED if self.updates_second_moment else Preconditioner.FROZEN,
            1.0,  # step sizes are an argument
            self.second_moment_decay,
            self.epsilon,
            self.weight_decay_rate,
        )
        layout = layout_of(network, self.way)
        return build_inner_step(network, layout, rule, self.scope, self.objective)

    def example_arguments(self, device: torch.device) -> tuple[Tensor, ...]:
        """Make the arguments of an `InnerStep` on a small random task, the same each time.

        The last way is padding where there are more than two.
        """
        generator = torch.Generator().manual_seed(0)
        tasks, ways = self.task_count, self.way - (self.way > 2)
        layout = self.layout()
        parameters = layout.join(initial_parameters(self._network(), self.way, generator))
        scale = 0.1 + torch.rand(tasks, layout.size, generator=generator)
        inputs = torch.rand(tasks, self.batch_size, *self.input_shape, generator=generator)
        targets = torch.arange(tasks * self.batch_size).reshape(tasks, -1) % ways
        if self.objective is Objective.SQUARED_ERROR:
            targets = torch.rand(tasks, self.batch_size, generator=generator)
        arguments = (
            parameters.repeat(tasks, 1),
            scale * (1e-4 if self.updates_second_moment else 100.0),
            inputs,
            targets,
            (torch.arange(self.way) < ways).repeat(tasks, 1),
            torch.full((tasks,), 1e-2),
        )
        return tuple(argument.to(device) for argument in arguments)

    def _network(self) -> Network:
        return build_network(self.network, self.input_shape, self.batch_norm_epsilon)
