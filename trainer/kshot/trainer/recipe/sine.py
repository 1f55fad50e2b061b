"""Recipes for sine waves, the case study of Nichol et al. (2018)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Count, Name, Natural, Text
from kshot.bundle.manifest import NetworkSpec
from kshot.trainer.recipe.recipe import Inner, Outer

SINE = "sine"
Range = Annotated[tuple[float, float], Rule("two growing numbers", lambda ends: ends[0] < ends[1])]


@dataclass(frozen=True)
class SineData:
    """The data set of sine waves, which are generated."""

    dataset: Literal["sine"]


@dataclass(frozen=True)
class SineTask:
    """Waves `y = a sin(x + b)`; a, b and x are uniform in `amplitude`, `phase` and `interval`.

    A training task is the wave at `grid_count` evenly spaced x; a test task adapts to `shot` of
    these, drawn with replacement. It has one output and no tail.
    """

    way: ClassVar[int] = 1
    tail_shot: ClassVar[int] = 0
    head: ClassVar[None] = None
    tail_batch_norm: ClassVar[None] = None
    tail_as_served: ClassVar[bool] = False

    amplitude: Range
    phase: Range
    interval: Range
    grid_count: Annotated[int, Rule("an integer of at least 2", lambda value: value >= 2)]
    shot: Count


@dataclass(frozen=True)
class SineEvaluation:
    """The number of test tasks, the steps after which they are measured, and the intervals."""

    step_counts: Annotated[
        tuple[Natural, ...],
        Rule("growing numbers", lambda counts: counts and list(counts) == sorted(set(counts))),
    ]
    task_count: Annotated[int, Rule("an integer of at least 2", lambda value: value >= 2)]
    interval: Count
    checkpoint_interval: Count
    seed: Natural


@dataclass(frozen=True)
class SineRecipe:
    """One training on sine waves; it ends with an evaluation instead of a bundle."""

    input_shape: ClassVar[tuple[int, int, int]] = (1, 1, 1)
    batch_norm_epsilon: ClassVar[float] = 1e-3  # without effect: its networks have no batch norm
    objective: ClassVar[Literal["squared_error"]] = "squared_error"

    name: Name
    description: Text
    reproduces: Text
    cost: Text
    data: SineData
    task: SineTask
    network: NetworkSpec
    inner: Inner
    outer: Outer
    evaluation: SineEvaluation
