"""The tasks that the engine adapts to, and their results."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import Head, Preconditioner, Scope
from kshot.engine.models import LoadedModel

Arrays = Mapping[str, npt.NDArray[np.float32]]


class StopReason(enum.Enum):
    """Why an inner loop ended."""

    COMPLETED = "completed"
    TIME_BUDGET = "time_budget"
    CANCELLED = "cancelled"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class TailTask:
    """How a tail adapts behind a head: steps on all examples, and in each fold, 0 for no folds.

    `crop_maps` `(k, n, channels, height, width)` are the maps of k crops of each example.
    """

    step_count: int
    fold_step_count: int
    crop_maps: npt.NDArray[np.float32]

    def check(self, classes: npt.NDArray[np.int64]) -> None:
        """Raise `ValueError` for what the front should have refused."""
        if self.step_count < 1:
            raise ValueError(f"tail.step_count: expected at least 1, got {self.step_count}")
        if self.crop_maps.ndim != 5 or self.crop_maps.shape[1] != len(classes):
            raise ValueError(
                f"tail.crop_maps: expected shape (k, {len(classes)}, channels, height, width), got "
                f"{self.crop_maps.shape}"
            )
        if self.fold_step_count and np.bincount(classes).min() < 2:
            raise ValueError("tail.fold_step_count: expected 0 where a class has one example")


@dataclass(frozen=True)
class EngineTask:
    """A prepared support set `(n, channels, height, width)`, its classes `(n,)`, and options.

    A `deterministic` task shares no launch with others: their number might change its sums. With
    `balance_classes` the classes come equally often in the steps. With `tail` there are none.
    Tasks of different callers take turns.
    """

    support: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    way: int
    step_count: int
    learning_rate: float
    batch_size: int
    preconditioner: Preconditioner
    head: Head
    scope: Scope
    seed: int
    deterministic: bool = False
    balance_classes: bool = False
    tail: TailTask | None = None
    caller: str = ""

    def __post_init__(self) -> None:
        """Raise `ValueError` for what the front should have refused."""
        if self.support.ndim != 4 or self.classes.shape != self.support.shape[:1]:
            raise ValueError(
                "support: expected shape (n, channels, height, width) and n classes, got "
                f"{self.support.shape} and {self.classes.shape[0]} classes"
            )
        if self.way < 2 or set(self.classes.tolist()) != set(range(self.way)):
            raise ValueError(f"classes: expected 0..{self.way - 1}, each with an example")
        if self.step_count == 0 and not self.head.from_support:
            raise ValueError(f"step_count: expected at least 1 with head {self.head}, got 0")
        for name, value in (
            ("batch_size", self.batch_size),
            ("learning_rate", self.learning_rate),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        if self.tail is not None:
            if self.step_count:
                raise ValueError(f"step_count: expected 0 with a tail, got {self.step_count}")
            self.tail.check(self.classes)

    def check(self, model: LoadedModel) -> None:
        """Raise `ValueError` if the task does not fit a model."""
        shape = model.bundle.manifest.network_input_shape
        most = model.bundle.manifest.limits.max_step_count
        if self.step_count > most:
            raise ValueError(
                f"step_count: expected at most {most} for model {model.name}, got {self.step_count}"
            )
        if self.support.shape[1:] != tuple(shape):
            raise ValueError(
                f"support: expected examples of shape {tuple(shape)} for model {model.name}, got "
                f"{self.support.shape[1:]}"
            )
        if self.tail is None:
            return
        spec = model.bundle.manifest.tail
        if spec is None:
            raise ValueError(f"tail: model {model.name} has none")
        if self.tail.crop_maps.shape[2:] != tuple(spec.map_shape):
            raise ValueError(
                f"tail.crop_maps: expected maps of shape {tuple(spec.map_shape)} for model "
                f"{model.name}, got {self.tail.crop_maps.shape[2:]}"
            )


@dataclass(frozen=True)
class EngineResult:
    """An adapted task; without arrays when it diverged, or stopped before its first step.

    `slot_bucket` counts the rows of the task's widest launch, 0 without steps; `compute_seconds`
    run from its first step to its end, without other tasks' steps between those of its tail.
    `tail_failed` tells that the head alone is here because a step of the tail failed.
    """

    parameters: Arrays
    statistics: Arrays
    step_count: int
    stop_reason: StopReason
    support_losses: tuple[float, ...]
    support_accuracy: float
    compute_seconds: float
    compute_path: str
    slot_bucket: int
    held_out_logits: npt.NDArray[np.float32] | None = None
    tail_failed: bool = False
