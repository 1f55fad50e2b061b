"""Answers to the queries of an evaluation, and the scores computed from them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kshot.trainer.evaluate.unknown_detection import UnknownDetection, detect_unknown
from kshot.trainer.statistics import accuracy_interval, calibration_error

LEAST_LIKELIHOOD = 1e-12


@dataclass(frozen=True)
class EvaluationResult:
    """Accuracy and ECE in 0..1, NLL in nats, and milliseconds per task.

    `ci95` is the half width of the 95 % interval that `ci_method` names. `correct_counts` has the
    right answers of each task, out of `query_count`; `episodes_digest` identifies the tasks.
    `diverged_count` tasks had answers that are not finite: these count as wrong, with equal
    probabilities.
    """

    accuracy: float
    ci95: float
    ci_method: str
    ece: float
    nll: float
    task_count: int
    step_count: int
    ms_per_task: float
    correct_counts: tuple[int, ...]
    query_count: int
    episodes_digest: str
    diverged_count: int = 0
    unknown: UnknownDetection | None = None

    @property
    def task_accuracies(self) -> Sequence[float]:
        """Return the accuracy on each task, in the order of the tasks."""
        return [count / self.query_count for count in self.correct_counts]


class Stopwatch:
    """Sums the wall-clock seconds of the blocks that it guards, including work on a GPU."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        # torch has no types for it
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._started


class Answers:
    """Collects the answers of one variant, part by part, and scores them."""

    def __init__(self) -> None:
        self.answering = Stopwatch()
        # Confidence, correctness and likelihood, each (tasks, queries).
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._mixed: list[Tensor] = []  # confidence, (tasks, 2 queries)
        self._diverged = 0

    def add(self, probabilities: Tensor, classes: Tensor) -> None:
        """Add answers `(tasks, queries, way)` to queries of classes `(tasks, queries)`."""
        finite = torch.isfinite(probabilities).all(dim=-1)  # (tasks, queries)
        probabilities = _with_chance(probabilities)
        confidence, answers = probabilities.max(dim=-1)
        likelihood = probabilities.gather(2, classes.unsqueeze(2)).squeeze(2)
        self._parts.append((confidence, (answers == classes) & finite, likelihood))
        self._diverged += int((~finite).any(dim=1).sum())

    def add_mixed(self, probabilities: Tensor) -> None:
        """Add answers `(tasks, 2 queries, way)` to known, then as many unknown queries."""
        self._mixed.append(_with_chance(probabilities).max(dim=-1).values)

    def score(
        self, step_count: int, episodes_digest: str, adapting_seconds: float
    ) -> EvaluationResult:
        """Score all answers; `adapting_seconds` are added to the time of answering."""
        confidence, correct, likelihood = map(torch.cat, zip(*self._parts, strict=True))
        task_count, query_count = correct.shape
        counts = correct.sum(dim=1).numpy()
        interval = accuracy_interval(counts, query_count)
        likelihood = likelihood.to(torch.float64).clamp_min(LEAST_LIKELIHOOD)
        unknown = None
        if self._mixed:
            mixed = torch.cat(self._mixed).to(torch.float64).numpy()
            unknown = detect_unknown(*np.split(mixed, 2, axis=1))
        return EvaluationResult(
            accuracy=interval.mean,
            ci95=interval.half_width,
            ci_method=interval.method,
            ece=calibration_error(confidence.flatten().numpy(), correct.flatten().numpy()),
            nll=float(-likelihood.log().mean()),
            task_count=task_count,
            step_count=step_count,
            ms_per_task=(adapting_seconds + self.answering.seconds) * 1e3 / task_count,
            correct_counts=tuple(counts.tolist()),
            query_count=query_count,
            episodes_digest=episodes_digest,
            diverged_count=self._diverged,
            unknown=unknown,
        )


def _with_chance(probabilities: Tensor) -> Tensor:
    """Replace answers that are not finite by equal probabilities."""
    chance = 1 / probabilities.shape[-1]
    return torch.where(torch.isfinite(probabilities), probabilities, chance)
