"""A training as data: every number that decides a result."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, cast

from kshot.bundle.choices import Preconditioner
from kshot.bundle.document import Rule, plain
from kshot.bundle.field_types import Count, Decay, Name, Natural, Positive, Text, Way
from kshot.bundle.manifest import (
    BatchNorm,
    BatchSizeRule,
    HeadPolicy,
    Limits,
    NetworkSpec,
    ScopePolicy,
    StepCountRule,
)
from kshot.bundle.steps import InputSpec

# For people, and not part of the digest.
PROSE = ("description", "reproduces", "cost")
Share = Annotated[float, Rule("a number from 0 to less than 1", lambda value: 0 <= value < 1)]
Few = Annotated[int, Rule("an integer from 1 to 8", lambda value: 1 <= value <= 8)]
NotNegative = Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]


@dataclass(frozen=True)
class Data:
    """The data set, its split, and whether rotations make four classes of each training class.

    `folder` is relative to the data folder; only the data set `folder` has one.
    """

    dataset: Text
    split: Text
    rotations: bool
    folder: Text | None = None


@dataclass(frozen=True)
class Augmentation:
    """The random changes of each image of a training task.

    `flip` mirrors half of the images, left to right. `shift` is the largest move as a share of the
    sides, `rotation_degrees` the largest turn either way, and `scale` s enlarges or shrinks by up
    to the factor 1 + s. The border is repeated outwards.

    `oversampling` k changes images of k times the input's height and width, and then reduces them.
    `stretch` s changes height and width by factors of their own up to 1 + s; `slant` moves rows
    sideways by up to this times their distance from the middle; `stroke_pixels` widens what is
    light by up to these pixels of the larger image on each side. After the reduction, `blur_pixels`
    is the largest deviation of a Gaussian blur in pixels, `gamma` g takes values of 0..1 to a power
    of up to 1 + g or its inverse, and `noise` is the largest deviation of Gaussian noise.
    """

    flip: bool
    shift: Share
    rotation_degrees: Annotated[
        float, Rule("a number from 0 to 180", lambda value: 0 <= value <= 180)
    ]
    scale: Share
    oversampling: Few | None = field(default=None, kw_only=True)
    stretch: Share | None = field(default=None, kw_only=True)
    slant: Share | None = field(default=None, kw_only=True)
    stroke_pixels: Few | None = field(default=None, kw_only=True)
    blur_pixels: Share | None = field(default=None, kw_only=True)
    gamma: Share | None = field(default=None, kw_only=True)
    noise: Share | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Start:
    """The bundle whose initialization a training starts from, and whose encoder it keeps.

    `digest` is the bundle's, `encoded_shape` what its encoder gives; both are filled in.
    """

    bundle: Text
    digest: Text
    encoded_shape: tuple[Count, Count, Count] | None = None


@dataclass(frozen=True)
class Task:
    """The training tasks; `shot` is the number of support examples per class.

    `tail_shot` of these are kept for the last inner step alone (a separate tail); with 0 the last
    step draws its batch like the others (a shared tail). `labels`: "shuffled" draws `way` classes
    for each task and numbers them as drawn; "fixed" takes all classes, `way` of them, each with its
    own number, and draws images from the whole data set.

    With `head` or `tail_batch_norm` a separate tail is not an inner step: it is answered as the
    server answers queries, and it adds only the gradient of its loss to the initialization,
    without an inner preconditioner or weight decay. `head`: "trained" (the default) starts a task
    with the trained head; "prototype" makes the head from the class means of the examples before
    the tail, and the outer gradient goes through them. `tail_batch_norm`: "support" normalizes the
    tail by the statistics of the examples before it, as the server does in that mode;
    "transductive" (the default) by its own.
    """

    way: Way
    shot: Count
    tail_shot: Natural
    labels: Literal["shuffled", "fixed"]
    head: Literal["trained", "prototype"] | None = field(default=None, kw_only=True)
    tail_batch_norm: Literal["support", "transductive"] | None = field(default=None, kw_only=True)

    @property
    def tail_as_served(self) -> bool:
        """Return whether the tail is answered like queries instead of being an inner step."""
        return self.head is not None or self.tail_batch_norm is not None


@dataclass(frozen=True)
class Inner:
    """The inner loop of training.

    `preconditioner`: "carried" keeps Adam's second moment from task to task, "fresh" starts it at
    zero in each task, "sgd" has none. `weight_decay_rate` multiplies all parameters before each
    step.
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
    """The outer loop; the step size changes linearly from the first value to the final one.

    `algorithm` weights the inner gradients of a task; "weighted" counts the i-th
    `gradient_weights[i]` times. `optimizer`: "sgd" moves by the step size times the tasks' mean
    displacement, "adam" takes the displacement over the inner learning rate as a gradient.
    `meta_batch`: "serial" adapts to its tasks one after another and carries Adam's second moment
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
    """The bundle's table: tasks of test classes, adapted by the bundle's defaults.

    `query_count` is per class; `step_count` is measured beside the served one. `way` defaults to
    the trained one.
    """

    shots: Annotated[tuple[Count, ...], Rule("at least one number", bool)]
    query_count: Count
    step_count: Count
    task_count: Count
    seed: Natural
    way: Way | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Evaluation:
    """The tasks of the learning curves, the intervals between points, and the bundle's table.

    `query_count` is per class; `interval` and `checkpoint_interval` are in meta-iterations.
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
    """The bundle's name, and the defaults, choices and limits of requests to it."""

    name: Name
    step_count: Natural
    preconditioner: Preconditioner
    preconditioners: tuple[Preconditioner, ...]
    batch_size_by_way: Annotated[tuple[BatchSizeRule, ...], Rule("at least one rule", bool)]
    batch_sizes: Annotated[tuple[Count, ...], Rule("at least one size", bool)]
    way_buckets: Annotated[tuple[Way, ...], Rule("at least one bucket", bool)]
    head: HeadPolicy
    scope: ScopePolicy
    limits: Limits
    step_count_by_shot: (
        Annotated[tuple[StepCountRule, ...], Rule("at least one rule", bool)] | None
    ) = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Recipe:
    """One training, from the data to the bundle; `PROSE` is for people."""

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
    start: Start | None = field(default=None, kw_only=True)

    @property
    def encoded_shape(self) -> tuple[int, int, int] | None:
        """Return what the encoder of the start gives, None without an encoder."""
        return None if self.start is None else self.start.encoded_shape

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape of one example as the network takes it."""
        return self.encoded_shape or self.input.shape

    @property
    def oversampling(self) -> int:
        """Return the size of stored training images over the input's."""
        changed = self.augmentation
        return 1 if changed is None else changed.oversampling or 1

    @property
    def batch_norm_epsilon(self) -> float:
        """Return the number that batch norm adds to a variance."""
        return self.batch_norm.epsilon


def plain_recipe(recipe: object) -> dict[str, object]:
    """Return a recipe as the values of its file, every setting resolved."""
    return cast(dict[str, object], plain(recipe))


def recipe_digest(recipe: object) -> str:
    """Return the SHA-256 of the canonical JSON of a recipe without its prose."""
    document = plain_recipe(recipe)
    for prose in PROSE:
        del document[prose]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
