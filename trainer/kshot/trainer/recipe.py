"""A training as data: every number that decides a result, and nothing left to the code."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

from kshot.bundle.choices import Preconditioner
from kshot.bundle.document import Rule, plain
from kshot.bundle.manifest import (
    BatchNorm,
    BatchSizeRule,
    Count,
    Decay,
    HeadPolicy,
    InputSpec,
    Limits,
    Name,
    Natural,
    NetworkSpec,
    Positive,
    ScopePolicy,
    Text,
    Way,
)

__all__ = [
    "Data",
    "Evaluation",
    "Inner",
    "Outer",
    "Recipe",
    "Serving",
    "Table",
    "Task",
    "recipe_digest",
]

NotNegative = Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]


@dataclass(frozen=True)
class Data:
    """The data set, its split, and whether training classes are rotated into four."""

    dataset: Text
    split: Text
    rotations: bool


@dataclass(frozen=True)
class Task:
    """The tasks of training; ``shot`` is the number of support examples per class there."""

    way: Way
    shot: Count


@dataclass(frozen=True)
class Inner:
    """The inner loop of training."""

    optimizer: Literal["adam"]
    learning_rate: Positive
    second_moment_decay: Decay
    epsilon: Positive
    batch_size: Count
    step_count: Count
    sampling: Literal["cycling"]


@dataclass(frozen=True)
class Outer:
    """The outer loop; the step size goes linearly from the first value to the final one.

    ``second_moment``: "serial" adapts the tasks of a meta-batch one after another and carries
    Adam's second moment through them; "stacked" adapts them together and carries its mean.
    """

    algorithm: Literal["reptile"]
    meta_step_size: NotNegative
    meta_step_size_final: NotNegative
    meta_batch_size: Count
    meta_iterations: Count
    second_moment: Literal["serial", "stacked"]
    seed: Natural


@dataclass(frozen=True)
class Table:
    """The bundle's table: tasks of the trained way from the test split, adapted by its defaults.

    ``query_count`` is per class; ``step_count`` is measured beside the served one.
    """

    shots: Annotated[tuple[Count, ...], Rule("at least one number", bool)]
    query_count: Count
    step_count: Count
    task_count: Count
    seed: Natural


@dataclass(frozen=True)
class Evaluation:
    """The tasks of the curves, how often they get a point, and the bundle's table.

    ``query_count`` is per class; ``interval`` and ``checkpoint_interval`` are in meta-iterations.
    """

    way: Way
    shot: Count
    query_count: Count
    batch_size: Count
    step_count: Count
    task_count: Count
    interval: Count
    checkpoint_interval: Count
    table: Table


@dataclass(frozen=True)
class Serving:
    """What the bundle's manifest says beyond the training: its name, defaults, choices, limits."""

    name: Name
    step_count: Count
    preconditioner: Preconditioner
    preconditioners: tuple[Preconditioner, ...]
    batch_size_by_way: Annotated[tuple[BatchSizeRule, ...], Rule("at least one rule", bool)]
    batch_sizes: Annotated[tuple[Count, ...], Rule("at least one size", bool)]
    way_buckets: Annotated[tuple[Way, ...], Rule("at least one bucket", bool)]
    head: HeadPolicy
    scope: ScopePolicy
    limits: Limits


@dataclass(frozen=True)
class Recipe:
    """One training, from the data to the bundle.

    ``description``, ``reproduces`` and ``cost`` are prose for people and not part of the digest.
    """

    name: Name
    description: Text
    reproduces: Text
    cost: Text
    data: Data
    input: InputSpec
    network: NetworkSpec
    batch_norm: BatchNorm
    task: Task
    inner: Inner
    outer: Outer
    evaluation: Evaluation
    serving: Serving


def recipe_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of the canonical JSON of all that decides a result (not the prose)."""
    document = plain(recipe)
    assert isinstance(document, dict)  # noqa: S101 -- a dataclass becomes a dict
    for prose in ("description", "reproduces", "cost"):
        del document[prose]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
