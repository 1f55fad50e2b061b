"""A training as data: every number that decides a result, and nothing left to the code."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

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
    "Augmentation",
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

Share = Annotated[float, Rule("a number from 0 to less than 1", lambda value: 0 <= value < 1)]
NotNegative = Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]


@dataclass(frozen=True)
class Data:
    """The data set, its split, and whether training classes are rotated into four.

    ``folder``, below the data folder, is that of the data set ``folder`` and of no other.
    """

    dataset: Text
    split: Text
    rotations: bool
    folder: Text | None = None


@dataclass(frozen=True)
class Augmentation:
    """How far each image of a training task is changed by chance, and by itself.

    ``flip`` turns every second one over, left to right. ``shift`` moves it by up to this share of
    its sides, ``rotation_degrees`` turns it by up to so many either way, ``scale`` s enlarges or
    shrinks it by up to the factor 1 + s. What comes in from outside repeats the border.
    """

    flip: bool
    shift: Share
    rotation_degrees: Annotated[
        float, Rule("a number from 0 to 180", lambda value: 0 <= value <= 180)
    ]
    scale: Share


@dataclass(frozen=True)
class Task:
    """The tasks of training; ``shot`` is the number of support examples per class there.

    ``tail_shot`` of them are kept for the last inner step alone (a separate tail); with 0 it draws
    its batch like the others (a shared one). ``labels``: "shuffled" draws ``way`` classes for each
    task and numbers them as drawn; "fixed" takes all classes, ``way`` of them, each with a number
    of its own, and draws images from the whole data set.

    With ``head`` or ``tail_batch_norm`` a separate tail is no inner step: it is answered as service
    answers queries, and what it adds to the initialization is the gradient of its loss alone,
    without an inner preconditioner or weight decay. ``head``: "trained" (where the other key alone
    is there, too) starts a task with the head that is trained; "prototype" makes it from the class
    means of the examples before the tail, and the outer gradient goes through them.
    ``tail_batch_norm``: "support" normalizes the tail by the statistics of the examples before it,
    as service does in that mode; "transductive" (where the other key alone is there, too) by its
    own.
    """

    way: Way
    shot: Count
    tail_shot: Natural
    labels: Literal["shuffled", "fixed"]
    head: Literal["trained", "prototype"] | None = field(default=None, kw_only=True)
    tail_batch_norm: Literal["support", "transductive"] | None = field(default=None, kw_only=True)

    @property
    def tail_as_served(self) -> bool:
        """Tell whether the tail is answered like queries, not taken as one more inner step."""
        return self.head is not None or self.tail_batch_norm is not None


@dataclass(frozen=True)
class Inner:
    """The inner loop of training.

    ``preconditioner``: "carried" keeps Adam's second moment from task to task, "fresh" starts it at
    zero in each, "sgd" has none. ``weight_decay_rate`` multiplies all parameters before each step.
    """

    preconditioner: Literal["carried", "fresh", "sgd"]
    learning_rate: Positive
    second_moment_decay: Decay
    epsilon: Positive
    weight_decay_rate: Annotated[float, Rule("a number above 0, at most 1", lambda r: 0 < r <= 1)]
    batch_size: Count
    step_count: Count
    sampling: Literal["cycling", "replacement"]


@dataclass(frozen=True)
class Outer:
    """The outer loop; the step size goes linearly from the first value to the final one.

    ``algorithm`` says how a task's inner gradients count; "weighted" counts the i-th
    ``gradient_weights[i]`` times. ``optimizer``: "sgd" moves by the step size times the tasks' mean
    displacement, "adam" takes the displacement over the inner learning rate as a gradient.
    ``meta_batch``: "serial" adapts to its tasks one after another and carries Adam's second moment
    through them; "stacked" adapts to them together and carries its mean.
    """

    algorithm: Literal["reptile", "fomaml", "maml", "joint", "weighted"]
    gradient_weights: tuple[float, ...] | None = field(default=None, kw_only=True)
    optimizer: Literal["sgd", "adam"]
    meta_step_size: NotNegative
    meta_step_size_final: NotNegative
    meta_batch_size: Count
    meta_iterations: Count
    meta_batch: Literal["serial", "stacked"]
    seed: Natural


@dataclass(frozen=True)
class Table:
    """The bundle's table: tasks from the test split, adapted by its defaults.

    ``query_count`` is per class; ``step_count`` is measured beside the served one. ``way`` is the
    trained one where it is left out.
    """

    shots: Annotated[tuple[Count, ...], Rule("at least one number", bool)]
    query_count: Count
    step_count: Count
    task_count: Count
    seed: Natural
    way: Way | None = field(default=None, kw_only=True)


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

    objective: ClassVar[Literal["cross_entropy"]] = "cross_entropy"

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
    augmentation: Augmentation | None = field(default=None, kw_only=True)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape of one example."""
        return self.input.shape

    @property
    def batch_norm_epsilon(self) -> float:
        """Return the number that batch norm adds to a variance."""
        return self.batch_norm.epsilon


def recipe_digest(recipe: object) -> str:
    """Return the SHA-256 of the canonical JSON of all that decides a result (not the prose)."""
    document = plain(recipe)
    assert isinstance(document, dict)  # noqa: S101 -- a dataclass becomes a dict
    for prose in ("description", "reproduces", "cost"):
        del document[prose]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
