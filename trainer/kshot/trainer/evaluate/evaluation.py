"""Accuracy of an initialization: adapt to sampled tasks, answer their queries, count."""

from collections.abc import Callable, Sequence

import torch

from kshot.bundle import BatchNormMode, Bundle
from kshot.learner import Initialization
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.baselines import Solver
from kshot.trainer.evaluate.compiled_solver import compiled_solver
from kshot.trainer.evaluate.scores import Answers, EvaluationResult, Stopwatch
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver, build_solver, build_variant
from kshot.trainer.evaluate.tasks import EvaluationTasks, prepare_tasks
from kshot.trainer.tasks.episode_file import EpisodeSet

__all__ = [
    "TASKS_AT_ONCE",
    "EvaluationResult",
    "EvaluationSettings",
    "Measurement",
    "TaskSolver",
    "build_solver",
    "evaluate",
    "evaluate_along",
    "evaluate_bundle",
    "evaluate_bundle_in",
    "initialization_of",
]

# On one core stacked tasks gain nothing; a GPU wants many.
TASKS_AT_ONCE = {"cpu": 1, "cuda": 64}

Report = Callable[[int, int], None]


def evaluate(
    solver: Solver,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    modes: Sequence[BatchNormMode],
    *,
    episodes: EpisodeSet | None = None,
    tasks_at_once: int = 1,
    report: Report = lambda _done, _total: None,
) -> dict[BatchNormMode, EvaluationResult]:
    """Evaluate in several modes on the same adaptations, of the episodes or of the seed's tasks.

    The same seed draws the same tasks whatever the other settings. Raises ``DataError`` when the
    data set is too small for such tasks.
    """
    tasks = prepare_tasks(dataset, settings, episodes)
    step_counts = [solver.step_count]
    (results,) = evaluate_along(
        solver, tasks, step_counts, modes, tasks_at_once=tasks_at_once, report=report
    ).values()
    return results


def evaluate_along(
    solver: Solver,
    tasks: EvaluationTasks,
    step_counts: Sequence[int],
    modes: Sequence[BatchNormMode],
    *,
    tasks_at_once: int = 1,
    report: Report = lambda _done, _total: None,
) -> dict[int, dict[BatchNormMode, EvaluationResult]]:
    """Evaluate one adaptation of each task after each number of steps, growing, in several modes.

    The milliseconds of a result are those that its own number of steps takes, and its answers.
    """
    measurement = Measurement(solver, step_counts, modes)
    task_count = len(tasks.episodes)
    for first in range(0, task_count, tasks_at_once):
        some = tasks.part(first, first + tasks_at_once)
        measurement.solve(some, first)
        report(first + len(some.episodes), task_count)
    return measurement.results(tasks.digest)


class Measurement:
    """Gathers one solver's answers along its steps, part by part of the tasks."""

    def __init__(
        self, solver: Solver, step_counts: Sequence[int], modes: Sequence[BatchNormMode]
    ) -> None:
        self._solver = solver
        self._answers = {steps: {mode: Answers() for mode in modes} for steps in step_counts}
        self._adapting = {steps: Stopwatch() for steps in step_counts}

    def solve(self, some: EvaluationTasks, first_task: int) -> None:
        """Adapt to some tasks, the first of which has this number, and answer their queries."""
        solver, step_counts = self._solver, list(self._answers)
        trajectory = solver.trajectory(some.episodes, first_task, step_counts)
        for steps, of_modes in self._answers.items():
            with self._adapting[steps]:
                parameters = next(trajectory)
            for mode, kept in of_modes.items():
                with kept.answering:
                    probabilities = solver.answer(parameters, some.episodes, mode)
                kept.add(probabilities, some.episodes.query_classes)
                if some.mixed is not None:
                    kept.add_mixed(solver.answer(parameters, some.mixed, mode))

    def results(self, episodes_digest: str) -> dict[int, dict[BatchNormMode, EvaluationResult]]:
        """Score all answers, by the number of steps and the mode."""
        results: dict[int, dict[BatchNormMode, EvaluationResult]] = {}
        seconds = 0.0
        for steps, of_modes in self._answers.items():
            seconds += self._adapting[steps].seconds
            results[steps] = {
                mode: kept.score(steps, episodes_digest, seconds) for mode, kept in of_modes.items()
            }
        return results


def evaluate_bundle(
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    episodes: EpisodeSet | None = None,
    compiled: bool | None = False,
    say: Callable[[str], None] = lambda _sentence: None,
    report: Report = lambda _done, _total: None,
) -> EvaluationResult:
    """Evaluate a bundle's initialization in the settings' mode, as ``evaluate_bundle_in`` does."""
    mode = settings.batch_norm_mode
    results = evaluate_bundle_in(
        [mode],
        bundle,
        dataset,
        settings,
        device=device,
        episodes=episodes,
        compiled=compiled,
        say=say,
        report=report,
    )
    return results[mode]


def evaluate_bundle_in(
    modes: Sequence[BatchNormMode],
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    episodes: EpisodeSet | None = None,
    compiled: bool | None = False,
    say: Callable[[str], None] = lambda _sentence: None,
    report: Report = lambda _done, _total: None,
) -> dict[BatchNormMode, EvaluationResult]:
    """Evaluate a bundle's initialization in several modes on the same adaptations.

    With ``compiled`` by the compiled inner step; with None where that works and is worth it, and
    ``say`` hears of it. Raises ``TrainingError`` when the weights do not fit the network or the
    step was to be compiled and cannot be, ``DataError`` when the data set does not fit the input.
    """
    manifest = bundle.manifest
    initialization = initialization_of(bundle, device)
    pixels = DevicePixels.load(dataset, manifest.input, device)
    solver = build_variant(initialization, manifest, pixels, settings)
    tasks_at_once = TASKS_AT_ONCE[device.type]
    if isinstance(solver, TaskSolver):
        solver = compiled_solver(
            solver,
            manifest,
            step_count=settings.task_count * solver.step_count,
            tasks_at_once=tasks_at_once,
            compiled=compiled,
            say=say,
        )
    return evaluate(
        solver,
        dataset,
        settings,
        modes,
        episodes=episodes,
        tasks_at_once=tasks_at_once,
        report=report,
    )


def initialization_of(bundle: Bundle, device: torch.device) -> Initialization:
    """Take a bundle's weights to a device; raises ``TrainingError`` where they do not fit."""
    try:
        return Initialization.from_bundle(bundle, device)
    except ValueError as error:
        raise TrainingError(f"bundle {bundle.path} cannot be used: {error}") from None
