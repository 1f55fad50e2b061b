"""What the engine is asked for, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kshot.bundle import Head, Preconditioner, Scope
from kshot.engine.models import LoadedModel
from kshot.learner import StopReason

Arrays = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class AdaptationTask:
    """A prepared support set ``(n, channels, height, width)``, its classes ``(n,)``, options.

    A ``deterministic`` one never shares a launch with others, whose number might change its sums.
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

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what the front should not have let through."""
        if self.support.ndim != 4 or self.classes.shape != self.support.shape[:1]:
            raise ValueError(
                f"{self.classes.shape[0]} classes for a support set of {self.support.shape}, "
                "wanted (n, channels, height, width) and n classes"
            )
        if self.way < 2 or set(self.classes.tolist()) != set(range(self.way)):
            raise ValueError(f"classes must be 0..{self.way - 1}, each with an example")
        for name, value in (
            ("step_count", self.step_count),
            ("batch_size", self.batch_size),
            ("learning_rate", self.learning_rate),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value}, wanted a number above 0")

    def check(self, model: LoadedModel) -> None:
        """Raise ``ValueError`` where the task does not fit a model."""
        shape = model.bundle.manifest.input.shape
        most = model.bundle.manifest.limits.max_step_count
        if self.step_count > most:
            raise ValueError(f"step_count is {self.step_count}, model {model.name} allows {most}")
        if self.support.shape[1:] != tuple(shape):
            raise ValueError(
                f"support shape is {self.support.shape[1:]}, model {model.name} wants "
                f"{tuple(shape)}"
            )


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation made; without arrays when it diverged or did no step.

    ``slot_bucket`` counts the rows of the widest launch that it took part in; ``compute_seconds``
    go from its first step to its end.
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
