"""Networks of a few parameters in float64, and the project's own outer loop over given tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kshot.bundle import Preconditioner
from kshot.learner import Network, Objective, StepRule, build_inner_step, layout_of
from kshot.trainer.loop.algorithms import algorithm_of
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.recipe.recipe import Inner, Outer
from kshot.trainer.tasks.training_tasks import SupportBatch

Loops = Callable[..., OuterLoop]


@dataclass(frozen=True)
class Curved:
    """One hidden unit: ``v tanh(w x) + b``, four parameters, derivatives of every order."""

    input_shape: tuple[int, int, int] = (1, 1, 2)
    feature_count: int = 1

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (2,)}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"hidden": torch.randn(2, generator=generator)}

    def features(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, _statistics: object
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return torch.tanh(inputs.flatten(2) @ parameters["hidden"].unsqueeze(2)), {}


@dataclass(frozen=True)
class Linear:
    """The head alone: ``w x + b``."""

    feature_count: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (1, 1, self.feature_count)

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def initialize_body(self, _generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def features(
        self, _parameters: Mapping[str, Tensor], inputs: Tensor, _statistics: object
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return inputs.flatten(2), {}


@dataclass(frozen=True)
class GivenTasks:
    """The tasks of each meta-iteration, as they are."""

    batches: Sequence[SupportBatch]

    def draw(self, meta_iteration: int) -> SupportBatch:
        return self.batches[meta_iteration]

    def load(self, drawn: SupportBatch, tasks: slice) -> SupportBatch:
        return drawn.part(tasks)


@pytest.fixture
def curved() -> Network:
    return Curved()


@pytest.fixture
def linear() -> Callable[[int], Network]:
    return Linear


@pytest.fixture
def loop_of() -> Loops:
    """Return a function from a network, an algorithm and tasks to their outer loop."""

    def make(
        network: Network,
        algorithm: str | tuple[float, ...],
        *batches: SupportBatch,
        learning_rate: float,
        meta_step_size: float = 1.0,
        meta_batch: str = "stacked",
        preconditioner: str = "sgd",
        weight_decay_rate: float = 1.0,
    ) -> OuterLoop:
        weights = algorithm if isinstance(algorithm, tuple) else None
        task_count, step_count, batch_size = batches[0].indices.shape
        step_count += batches[0].tail is not None
        inner = Inner(
            preconditioner,
            learning_rate,
            0.999,
            1e-8,
            weight_decay_rate,
            batch_size,
            step_count,
            "cycling",
        )
        outer = Outer(
            "weighted" if isinstance(algorithm, tuple) else algorithm,
            "sgd",
            meta_step_size,
            meta_step_size,
            task_count,
            len(batches),
            meta_batch,
            0,
            gradient_weights=weights,
        )
        rule = StepRule(
            Preconditioner(preconditioner),
            learning_rate,
            inner.second_moment_decay,
            inner.epsilon,
            weight_decay_rate,
        )
        layout = layout_of(network, 1)
        step = build_inner_step(network, layout, rule, objective=Objective.SQUARED_ERROR)
        return OuterLoop(
            outer,
            algorithm_of(outer, step_count),
            GivenTasks(batches),
            network,
            layout,
            Objective.SQUARED_ERROR,
            rule,
            step,
            step,
        )

    return make


@pytest.fixture
def state_of() -> Callable[[Tensor], OuterState]:
    """Return a function that starts a training at given parameters ``(P,)``, with v and t zero."""
    return lambda parameters: OuterState(parameters, torch.zeros_like(parameters), 0, 0)
