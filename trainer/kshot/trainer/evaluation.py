"""Accuracy of an initialization: adapt to sampled tasks, answer their queries, count."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Bundle
from kshot.learner import Initialization, derive_seed
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import sample_episodes
from kshot.trainer.errors import TrainingError
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.statistics import accuracy_interval, expected_calibration_error
from kshot.trainer.task_solver import EvaluationSettings, TaskSolver, build_solver

__all__ = [
    "TASKS_AT_ONCE",
    "EvaluationResult",
    "EvaluationSettings",
    "TaskSolver",
    "build_solver",
    "evaluate",
    "evaluate_bundle",
]

# On one core stacked tasks gain nothing; a GPU wants many.
TASKS_AT_ONCE = {"cpu": 1, "cuda": 64}
LEAST_LIKELIHOOD = 1e-12


@dataclass(frozen=True)
class EvaluationResult:
    """Accuracy and calibration in 0..1 (``nll`` in nats), and milliseconds of a task.

    ``ci95`` is the half width of the 95 % interval that ``ci_method`` names.
    """

    accuracy: float
    ci95: float
    ci_method: str
    ece: float
    nll: float
    task_count: int
    step_count: int
    ms_per_task: float


def evaluate(
    solver: TaskSolver,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    modes: Sequence[BatchNormMode],
    *,
    tasks_at_once: int = 1,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[BatchNormMode, EvaluationResult]:
    """Evaluate in several modes on the same adaptations of tasks drawn from the settings' seed.

    The same seed draws the same tasks whatever the other settings. Raises ``DataError`` when the
    data set is too small for such tasks.
    """
    task_count = settings.task_count
    episodes = sample_episodes(
        dataset,
        task_count,
        settings.way,
        settings.shot,
        settings.query_count,
        torch.Generator().manual_seed(derive_seed(settings.seed)),
    )
    answers: dict[BatchNormMode, list[Tensor]] = {mode: [] for mode in modes}
    adapting = _Stopwatch()
    answering = {mode: _Stopwatch() for mode in modes}
    for first in range(0, task_count, tasks_at_once):
        some = episodes.part(first, first + tasks_at_once)
        with adapting:
            parameters = solver.adapt(some, first)
        for mode in modes:
            with answering[mode]:
                answers[mode].append(solver.answer(parameters, some, mode))
        report(first + len(some), task_count)
    return {
        mode: _score(
            torch.cat(answers[mode]),
            episodes.query_classes,
            solver.step_count,
            (adapting.seconds + answering[mode].seconds) * 1e3 / task_count,
        )
        for mode in modes
    }


def _score(
    probabilities: Tensor, classes: Tensor, step_count: int, ms_per_task: float
) -> EvaluationResult:
    """Score probabilities ``(tasks, queries, way)`` against classes ``(tasks, queries)``."""
    correct = (probabilities.argmax(dim=-1) == classes).sum(dim=1)
    interval = accuracy_interval(correct.numpy(), classes.shape[1])
    likelihoods = probabilities.gather(2, classes.unsqueeze(2)).clamp_min(LEAST_LIKELIHOOD)
    return EvaluationResult(
        accuracy=interval.mean,
        ci95=interval.half_width,
        ci_method=interval.method,
        ece=expected_calibration_error(
            probabilities.flatten(0, 1).numpy(), classes.flatten().numpy()
        ),
        nll=float(-likelihoods.log().mean()),
        task_count=classes.shape[0],
        step_count=step_count,
        ms_per_task=ms_per_task,
    )


class _Stopwatch:
    """Adds up the wall-clock seconds of the blocks that it guards."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def evaluate_bundle(
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> EvaluationResult:
    """Evaluate a bundle's initialization.

    Raises ``TrainingError`` when its weights do not fit its network, ``DataError`` when the data
    set does not fit its input.
    """
    manifest = bundle.manifest
    try:
        initialization = Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise TrainingError(f"bundle {bundle.path} cannot be used: {error}") from None
    pixels = DevicePixels.load(dataset, manifest.input, device)
    solver = build_solver(initialization, manifest, pixels, settings)
    mode = settings.batch_norm_mode
    tasks_at_once = TASKS_AT_ONCE[device.type]
    results = evaluate(
        solver, dataset, settings, [mode], tasks_at_once=tasks_at_once, report=report
    )
    return results[mode]
