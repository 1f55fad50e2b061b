"""The content of `manifest.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from kshot.bundle.behind_encoder import RidgeSettings, TailSpec
from kshot.bundle.calibration import Calibration
from kshot.bundle.choices import COMPUTED_MODES, BatchNormMode, Head, Preconditioner, Scope
from kshot.bundle.document import Rule
from kshot.bundle.field_types import (
    Count,
    Decay,
    Digest,
    Fraction,
    Name,
    Natural,
    Positive,
    Text,
    Way,
)
from kshot.bundle.steps import InputSpec

SCHEMA_VERSION: Literal[2] = 2
WEIGHTS_FILE = "weights.safetensors"
ENCODER_FILE = "encoder.onnx"
TAIL_FILE = "tail.safetensors"
TAIL_TEMPLATE_FILE = "predict_tail.onnx"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name, with the arguments that make it."""

    name: Text
    arguments: Mapping[str, int | float | str | bool]


@dataclass(frozen=True)
class EncoderSpec:
    """The frozen function in `encoder.onnx`, from prepared images to the network's input.

    Its input `images` is float32 `(n, *input.shape)`, its output `encoded` float32
    `(n, *output_shape)`; features are `(features, 1, 1)`.
    """

    output_shape: tuple[Count, Count, Count]


@dataclass(frozen=True)
class BatchSizeRule:
    """The default batch size up to `max_way` classes."""

    max_way: Way
    batch_size: Count


@dataclass(frozen=True)
class StepCountRule:
    """The default step count up to `max_shot` examples per class."""

    max_shot: Count
    step_count: Natural


@dataclass(frozen=True)
class InnerLoop:
    """The defaults of the inner loop and the alternatives for requests."""

    learning_rate: Positive
    step_count: Natural
    batch_size_by_way: Annotated[tuple[BatchSizeRule, ...], Rule("at least one rule", bool)]
    batch_sizes: Annotated[tuple[Count, ...], Rule("at least one size", bool)]
    way_buckets: Annotated[tuple[Way, ...], Rule("at least one bucket", bool)]
    preconditioner: Preconditioner
    preconditioners: tuple[Preconditioner, ...]
    optimizer: Literal["adam", "sgd"] = "adam"
    sampling: Literal["cycling"] = "cycling"
    second_moment_decay: Decay = 0.999
    epsilon: Positive = 1e-8
    weight_decay_rate: Positive | None = None
    """Multiplies all parameters before each inner step; None leaves them unchanged."""
    step_count_by_shot: (
        Annotated[tuple[StepCountRule, ...], Rule("at least one rule", bool)] | None
    ) = None
    """The first rule that a task fits replaces `step_count`."""


@dataclass(frozen=True)
class BatchNorm:
    """The batch-norm modes, and the number added to a variance."""

    default: BatchNormMode
    allowed: tuple[BatchNormMode, ...]
    epsilon: Positive = 1e-3


@dataclass(frozen=True)
class Training:
    """The tasks that the initialization was trained on."""

    way: Way
    shot: Count


@dataclass(frozen=True)
class HeadPolicy:
    """The allowed initializations of the last layer."""

    default: Head
    allowed: tuple[Head, ...]


@dataclass(frozen=True)
class ScopePolicy:
    """The allowed sets of adapted parameters."""

    default: Scope
    allowed: tuple[Scope, ...]


@dataclass(frozen=True)
class Limits:
    """The largest task and the largest options of a request."""

    max_way: Way
    max_support_count: Count
    max_query_count: Count
    max_step_count: Count
    max_learning_rate: Positive


@dataclass(frozen=True)
class Provenance:
    """The origin of the initialization; `folder` is that of a data set of class folders."""

    recipe: Text
    recipe_digest: Text
    algorithm: Text
    seed: Natural
    meta_iterations: Natural
    data_digest: Text
    split_digest: Text
    library_versions: Mapping[str, str]
    dataset: Text | None = None
    split: Text | None = None
    folder: Text | None = None


@dataclass(frozen=True)
class EvaluationRow:
    """One measured accuracy (a fraction) with the half width of its 95 % interval."""

    way: Way
    shot: Count
    query_count: Count
    task_count: Count
    step_count: Natural
    batch_norm_mode: BatchNormMode
    preconditioner: Preconditioner
    accuracy: Fraction
    ci95: Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]
    ci_method: Text


@dataclass(frozen=True)
class FileEntry:
    """The SHA-256 (hex) and the size of one file of the bundle."""

    sha256: Digest
    size_bytes: Natural


@dataclass(frozen=True)
class Manifest:
    """All that trainer, engine and front know about one bundle.

    Version 1 of the schema has no encoder, ridge, tail, mode `stored` or step counts by shot, at
    least one step, and as steps of preprocessing a colour step, a resize and a rescale.
    """

    schema_version: Literal[1, 2] = field(default=SCHEMA_VERSION, kw_only=True)
    name: Name
    version: Count
    network: NetworkSpec
    input: InputSpec
    inner_loop: InnerLoop
    batch_norm: BatchNorm
    training: Training
    head: HeadPolicy
    scope: ScopePolicy
    limits: Limits
    provenance: Provenance
    evaluation: tuple[EvaluationRow, ...] = ()
    calibration: Calibration | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    encoder: EncoderSpec | None = None
    ridge: RidgeSettings | None = None
    tail: TailSpec | None = None

    @property
    def usual_way(self) -> int:
        """Return the default number of classes of a task: the table's, else that of training."""
        return self.evaluation[0].way if self.evaluation else self.training.way

    @property
    def network_input_shape(self) -> tuple[int, int, int]:
        """Return the shape of what the network takes: the encoder's output, or a prepared image."""
        return self.input.shape if self.encoder is None else self.encoder.output_shape

    @property
    def feature_count(self) -> int:
        """Count the numbers of the network's input without the maps for a tail."""
        maps = 0 if self.tail is None else self.tail.map_size
        return math.prod(self.network_input_shape) - maps

    @property
    def template_modes(self) -> tuple[BatchNormMode, ...]:
        """Return the batch-norm modes that have a template, in their usual order."""
        if self.schema_version == 1:
            return COMPUTED_MODES
        return tuple(mode for mode in BatchNormMode if mode in self.batch_norm.allowed)

    def default_step_count(self, way: int, support_count: int) -> int:
        """Return the default step count of a task, by its mean number of examples per class."""
        rules = self.inner_loop.step_count_by_shot or ()
        fitting = (rule.step_count for rule in rules if support_count <= rule.max_shot * way)
        return next(fitting, self.inner_loop.step_count)

    def default_batch_size(self, way: int) -> int:
        """Return the default batch size of a task of `way` classes."""
        rules = self.inner_loop.batch_size_by_way
        fitting = (rule for rule in rules if way <= rule.max_way)
        return next(fitting, rules[-1]).batch_size

    def way_bucket(self, way: int) -> int:
        """Return the number of rows of a task's head: the smallest bucket that holds its way."""
        return next((bucket for bucket in self.inner_loop.way_buckets if bucket >= way), way)

    @property
    def calibrated_modes(self) -> tuple[BatchNormMode, ...]:
        """Return the allowed batch-norm modes that have temperatures, in the order of `allowed`."""
        rules = () if self.calibration is None else self.calibration.rules
        with_rules = {rule.batch_norm_mode for rule in rules}
        return tuple(mode for mode in self.batch_norm.allowed if mode in with_rules)

    def temperature(self, mode: BatchNormMode, way: int, support_count: int) -> float:
        """Return the temperature of a task in `mode`; 1 without a calibration."""
        return self.calibration.temperature(mode, way, support_count) if self.calibration else 1.0


def template_file(mode: BatchNormMode) -> str:
    """Return the name of the ONNX template of `mode`."""
    return f"predict_{mode.value}.onnx"


def bundle_files(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the files that a manifest lists."""
    encoder = () if manifest.encoder is None else (ENCODER_FILE,)
    tail = () if manifest.tail is None else (TAIL_FILE, TAIL_TEMPLATE_FILE)
    return (WEIGHTS_FILE, *map(template_file, manifest.template_modes), *encoder, *tail, CARD_FILE)
