"""The evaluator: adapts an initialization to tasks, answers their queries, scores the answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kshot.bundle import BatchNormMode, Bundle, Manifest
from kshot.learner import Initialization
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.baselines import Baseline, NilSolver
from kshot.trainer.evaluate.compiled_steps import CompiledSteps
from kshot.trainer.evaluate.scores import Answers, EvaluationResult, Stopwatch
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import TaskSolver, build_solver
from kshot.trainer.evaluate.tasks import EvaluationTasks, prepare_tasks
from kshot.trainer.tasks.episode_file import EpisodeSet

# On one core stacked tasks gain nothing; a GPU needs many.
TASKS_AT_ONCE = {"cpu": 1, "cuda": 64}

# Called with the number of finished tasks and the number of all tasks.
Report = Callable[[int, int], None]
ResultsAlong = dict[int, dict[BatchNormMode, EvaluationResult]]
# Both have a `step_count`, a `trajectory` that adapts to tasks, and an `answer` to their queries.
Solver = NilSolver | TaskSolver


class Evaluator:
    """Evaluates one initialization on the tasks of one data set.

    Holds the images on the device of the initialization, and the compiled inner steps. `compiled`
    says whether steps are compiled: None means on a CPU, where that works and pays; `say` hears of
    it. Methods raise `DataError` when the data set is too small for the tasks, and `TrainingError`
    when a step that is to be compiled does not compile.
    """

    def __init__(
        self,
        initialization: Initialization,
        manifest: Manifest,
        dataset: ImageDataset,
        *,
        pixels: DevicePixels | None = None,
        compiled: bool | None = False,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        """Load the images unless `pixels` holds them; raises `DataError` when they do not fit."""
        self.initialization, self.manifest, self.dataset = initialization, manifest, dataset
        device = next(iter(initialization.parameters.values())).device
        self.pixels = pixels or DevicePixels.load(dataset, manifest.input, device)
        self.tasks_at_once = TASKS_AT_ONCE[device.type]
        self._steps = CompiledSteps(manifest, device, compiled, say)

    @staticmethod
    def of_bundle(
        bundle: Bundle,
        dataset: ImageDataset,
        device: torch.device,
        *,
        compiled: bool | None = False,
        say: Callable[[str], None] = lambda _sentence: None,
        encoding: Report = lambda _done, _total: None,
    ) -> "Evaluator":
        """Load a bundle's weights to a device, and encode the images if it has an encoder.

        `encoding` hears of the images encoded so far and of their total. Raises `TrainingError`
        when the weights do not fit the network, `DataError` when the images do not fit the input.
        """
        try:
            initialization = Initialization.from_bundle(bundle, device)
        except ValueError as error:
            raise TrainingError(f"bundle {bundle.path} cannot be used: {error}") from None
        return Evaluator(
            initialization,
            bundle.manifest,
            dataset,
            pixels=encoded_pixels(dataset, bundle, device, encoding),
            compiled=compiled,
            say=say,
        )

    def evaluate(
        self,
        settings: EvaluationSettings,
        modes: Sequence[BatchNormMode] | None = None,
        *,
        episodes: EpisodeSet | None = None,
        report: Report = lambda _done, _total: None,
    ) -> dict[BatchNormMode, EvaluationResult]:
        """Evaluate in several modes, by default the settings' own, on the same adaptations.

        Tasks are `episodes` or drawn from the seed; equal seeds draw equal tasks, whatever the
        other settings.
        """
        (along,) = self.compare(
            [settings], modes or [settings.batch_norm_mode], episodes=episodes, report=report
        )
        (results,) = along.values()
        return results

    def compare(
        self,
        variants: Sequence[EvaluationSettings],
        modes: Sequence[BatchNormMode],
        *,
        step_counts: Sequence[int] | None = None,
        planned_tasks: int | None = None,
        episodes: EpisodeSet | None = None,
        report: Report = lambda _done, _total: None,
    ) -> list[ResultsAlong]:
        """Evaluate variants on the same tasks, after each of the growing `step_counts`.

        Without `step_counts`, each variant has its own number of steps. Each task is adapted to
        once per variant; a result's milliseconds are those of its own steps and answers. The
        variants take turns, so that a drift of the machine affects all alike; their steps are all
        compiled, or none. They differ in how they adapt, not in their tasks. `planned_tasks`
        is the number of tasks of several calls, when compiling has to pay for all of them together.
        """
        if step_counts is not None:
            variants = [replace(variant, step_count=step_counts[-1]) for variant in variants]
        tasks = prepare_tasks(self.dataset, variants[0], episodes)
        task_count = len(tasks.episodes)
        measurements = []
        for solver in self.solvers(variants, planned_tasks or task_count):
            along = step_counts if step_counts and solver.step_count else [solver.step_count]
            measurements.append(Measurement(solver, along, modes))
        total = task_count * len(measurements)
        for first in range(0, task_count, self.tasks_at_once):
            some = tasks.part(first, first + self.tasks_at_once)
            for number, measurement in enumerate(measurements, start=1):
                measurement.solve(some, first)
                report(first * len(measurements) + number * len(some.episodes), total)
        return [measurement.results(tasks.digest) for measurement in measurements]

    def logits(
        self,
        settings: EvaluationSettings,
        modes: Sequence[BatchNormMode],
        *,
        planned_tasks: int | None = None,
        report: Report = lambda _done, _total: None,
    ) -> tuple[dict[BatchNormMode, Tensor], Tensor]:
        """Return the network's own logits by mode, and the classes of the queries.

        Logits are float32 `(tasks, queries, way)`, classes int64 `(tasks, queries)`, on the CPU.
        `planned_tasks` is as in `compare`.
        """
        episodes = prepare_tasks(self.dataset, settings).episodes
        task_count = len(episodes)
        (solver,) = self._task_solvers([settings], planned_tasks or task_count)
        parts: dict[BatchNormMode, list[Tensor]] = {mode: [] for mode in modes}
        for first in range(0, task_count, self.tasks_at_once):
            some = episodes[first : first + self.tasks_at_once]
            adapted = solver.adapt(some, first)
            for mode, kept in parts.items():
                kept.append(solver.logits(adapted, some, mode).cpu())
            report(first + len(some), task_count)
        return {mode: torch.cat(kept) for mode, kept in parts.items()}, episodes.query_classes

    def solvers(self, variants: Sequence[EvaluationSettings], task_count: int) -> list[Solver]:
        """Build a solver for each variant; compile their steps when that pays for all together.

        `task_count` is the number of tasks that each of them will solve.
        """
        nil = NilSolver(self.initialization, self.pixels, variants[0].way)
        adapting = [variant for variant in variants if variant.baseline is not Baseline.NIL]
        solvers = iter(self._task_solvers(adapting, task_count))
        return [nil if of.baseline is Baseline.NIL else next(solvers) for of in variants]

    def _task_solvers(
        self, variants: Sequence[EvaluationSettings], task_count: int
    ) -> Sequence[TaskSolver]:
        plain = [
            build_solver(self.initialization, self.manifest, self.pixels, variant)
            for variant in variants
        ]
        step_count = task_count * sum(solver.step_count for solver in plain)
        return self._steps.give(plain, step_count, self.tasks_at_once)


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

    def results(self, episodes_digest: str) -> ResultsAlong:
        """Score all answers, by the number of steps and the mode."""
        results: ResultsAlong = {}
        seconds = 0.0
        for steps, of_modes in self._answers.items():
            seconds += self._adapting[steps].seconds
            results[steps] = {
                mode: kept.score(steps, episodes_digest, seconds) for mode, kept in of_modes.items()
            }
        return results


def part_of(report: Report, before: int, total: int) -> Report:
    """Report the progress of a part as progress of the whole."""
    return lambda done, _total: report(before + done, total)
