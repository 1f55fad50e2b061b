"""The content of `manifest.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from kshot.bundle.choices import BatchNormMode, Head, Preconditioner, Scope
from kshot.bundle.document import Rule

SCHEMA_VERSION: Literal[1] = 1
NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,63}"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"

Count = Annotated[int, Rule("an integer of at least 1", lambda value: value >= 1)]
Natural = Annotated[int, Rule("an integer of at least 0", lambda value: value >= 0)]
Way = Annotated[int, Rule("an integer of at least 2", lambda value: value >= 2)]
Positive = Annotated[float, Rule("a number above 0", lambda value: value > 0)]
Temperature = Annotated[
    float, Rule("a number from 0.001 to 1000", lambda value: 0.001 <= value <= 1000)
]
Fraction = Annotated[float, Rule("a number from 0 to 1", lambda value: 0 <= value <= 1)]
Decay = Annotated[float, Rule("a number of at least 0, below 1", lambda value: 0 <= value < 1)]
Text = Annotated[str, Rule("some text", lambda value: bool(value.strip()))]
Name = Annotated[str, Rule(f"a match of {NAME_PATTERN}", re.compile(NAME_PATTERN).fullmatch)]
Digest = Annotated[str, Rule("64 digits 0-9a-f", re.compile("[0-9a-f]{64}").fullmatch)]


@dataclass(frozen=True)
class NetworkSpec:
    """A network by name, with the arguments that make it."""

    name: Text
    arguments: Mapping[str, int | float | str | bool]


@dataclass(frozen=True)
class Grayscale:
    """Make one channel of luminance."""

    step: Literal["grayscale"] = field(default="grayscale", kw_only=True)


@dataclass(frozen=True)
class Rgb:
    """Make three channels."""

    step: Literal["rgb"] = field(default="rgb", kw_only=True)


@dataclass(frozen=True)
class Resize:
    """Resize an image of any size and aspect to `height` by `width` pixels."""

    step: Literal["resize"] = field(default="resize", kw_only=True)
    height: Count
    width: Count
    method: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Rescale:
    """Multiply pixels 0..255 by a factor."""

    step: Literal["rescale"] = field(default="rescale", kw_only=True)
    factor: Positive


PreprocessingStep = Grayscale | Rgb | Resize | Rescale


@dataclass(frozen=True)
class InputSpec:
    """The shape of a prepared example, `(channels, height, width)`, and the steps that make it.

    The steps are a colour step, a resize and a rescale, in this order.
    """

    shape: tuple[Count, Count, Count]
    preprocessing: tuple[PreprocessingStep, ...]
    dtype: Literal["float32"] = "float32"


@dataclass(frozen=True)
class BatchSizeRule:
    """The default batch size up to `max_way` classes."""

    max_way: Way
    batch_size: Count


@dataclass(frozen=True)
class InnerLoop:
    """The defaults of the inner loop and the alternatives for requests."""

    learning_rate: Positive
    step_count: Count
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
class TemperatureRule:
    """The temperature of a batch-norm mode for tasks of `shot` examples per class."""

    batch_norm_mode: BatchNormMode
    shot: Positive
    temperature: Temperature


@dataclass(frozen=True)
class Calibration:
    """The temperatures that divide logits before the softmax, and the tasks that fitted them.

    For each `shot` there were `task_count` tasks of `way` classes with `query_count` queries per
    class, drawn from `seed` out of `part` of the training's data, whose images have `data_digest`,
    and adapted by `step_count` steps and the bundle's other defaults.
    """

    rules: Annotated[tuple[TemperatureRule, ...], Rule("at least one rule", bool)]
    part: Text
    data_digest: Text
    way: Way
    task_count: Count
    query_count: Count
    step_count: Natural
    seed: Natural

    def temperature(self, mode: BatchNormMode, way: int, support_count: int) -> float:
        """Return the temperature of a task in `mode`; 1 where the mode has no rule.

        Between the `shot`s of the mode's rules its logarithm is linear in that of the examples per
        class, `support_count / way`; below the first and above the last it is theirs.
        """
        rules = [rule for rule in self.rules if rule.batch_norm_mode is mode]
        if not rules:
            return 1.0
        shot = support_count / way
        above = next((at for at, rule in enumerate(rules) if shot <= rule.shot), len(rules))
        if above in (0, len(rules)) or shot == rules[above].shot:
            return rules[min(above, len(rules) - 1)].temperature
        low, high = rules[above - 1], rules[above]
        start = math.log(low.shot)
        part = (math.log(shot) - start) / (math.log(high.shot) - start)
        return math.exp((1 - part) * math.log(low.temperature) + part * math.log(high.temperature))


@dataclass(frozen=True)
class FileEntry:
    """The SHA-256 (hex) and the size of one file of the bundle."""

    sha256: Digest
    size_bytes: Natural


@dataclass(frozen=True)
class Manifest:
    """All that trainer, engine and front know about one bundle."""

    schema_version: Literal[1] = field(default=SCHEMA_VERSION, kw_only=True)
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

    @property
    def usual_way(self) -> int:
        """Return the default number of classes of a task: the table's, else that of training."""
        return self.evaluation[0].way if self.evaluation else self.training.way

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


def bundle_files() -> tuple[str, ...]:
    """Return the names of the files that a manifest lists."""
    return (WEIGHTS_FILE, *map(template_file, BatchNormMode), CARD_FILE)
