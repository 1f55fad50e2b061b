"""A run of an experiment: its trainings by their settings, one after another or side by side."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kshot.learner import compute_reproducibly
from kshot.trainer.errors import RecipeError, TrainerError
from kshot.trainer.experiment import START, Arm, arms_of
from kshot.trainer.experiment_files import ExperimentFile
from kshot.trainer.experiment_scores import ArmScores
from kshot.trainer.experiment_training import ArmJob, train_arm
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.recipe.overrides import override
from kshot.trainer.recipe.parsing import AnyRecipe, parse_recipe
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.recipe.sine import SineRecipe

__all__ = ["ArmRun", "Outcome", "RunSettings", "plan", "run_experiment"]

CurvePoint = Mapping[str, float | None]
Follow = Callable[[str], Callable[[TrainingReport], None]]


@dataclass(frozen=True)
class RunSettings:
    """How an experiment is run.

    ``scale`` multiplies the meta-iterations of all arms and their intervals, ``step_scale`` their
    outer step sizes; ``overrides`` are set in all arms, over their own settings, before that.
    ``arms`` are those that are run, a line's name for all of its sweep; empty for all. Seed i of
    ``seed_count`` is the recipe's plus i, the same for all arms. ``task_count`` is that of the
    comparison, None for the experiment's.
    """

    out: Path
    data_folder: Path | None
    device: str
    compiled: bool | None
    scale: float = 1.0
    step_scale: float = 1.0
    seed_count: int = 1
    overrides: Sequence[str] = ()
    arms: Sequence[str] = ()
    task_count: int | None = None
    job_count: int = 1


@dataclass(frozen=True)
class ArmRun:
    """What one training of an arm gave; the curve is empty for the start of all."""

    seed: int
    scores: ArmScores
    curve: Sequence[CurvePoint] = ()


@dataclass(frozen=True)
class Outcome:
    """An arm and its trainings, one a seed; ``recipe`` is that of the first."""

    arm: Arm
    recipe: AnyRecipe
    runs: Sequence[ArmRun]

    @property
    def value(self) -> float | None:
        """Return the value that a sweep's arm was trained with, after all settings and scales."""
        if self.arm.key is None:
            return None
        value: object = self.recipe
        for name in self.arm.key.split("."):
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        assert isinstance(value, int | float)  # noqa: S101 -- a sweep's values are numbers
        return float(value)


@dataclass(frozen=True)
class _Planned:
    """One training that an arm needs; several arms may need the same."""

    arm: Arm
    seed: int
    job: ArmJob


def run_experiment(
    file: ExperimentFile,
    settings: RunSettings,
    *,
    follow: Follow,
    say: Callable[[str], None],
) -> tuple[Outcome, ...]:
    """Run all trainings of an experiment and return what they gave, that of the start first.

    What was finished before is read, what was begun goes on. ``follow`` gets the name of a training
    and returns what hears of it, where trainings run one after another. Raises ``TrainerError``.
    """
    planned = plan(file, settings)
    jobs = {item.job.folder: item.job for item in planned}
    scores = dict(zip(jobs, _run_all(list(jobs.values()), settings, follow, say), strict=True))
    outcomes: dict[str, Outcome] = {}
    for item in planned:
        folder = item.job.folder
        run = ArmRun(item.seed, scores[folder], _curve(folder) if item.job.trained else ())
        known = outcomes.get(item.arm.name)
        runs = (*known.runs, run) if known else (run,)
        outcomes[item.arm.name] = Outcome(
            item.arm, known.recipe if known else item.job.recipe, runs
        )
    return tuple(outcomes.values())


def plan(file: ExperimentFile, settings: RunSettings) -> tuple[_Planned, ...]:
    """List what an experiment trains, seed by seed; raises RecipeError.

    Arms whose recipes differ in nothing but the name share a folder, and so a training.
    """
    arms, final = arms_of(file.experiment), file.experiment.final
    if final is not None and settings.task_count is not None:
        final = replace(final, task_count=settings.task_count)
    known = [name for arm in arms for name in (arm.line, arm.name)]
    for name in settings.arms:
        if name not in known:
            raise RecipeError(f"arm is {name!r}, wanted one of: {', '.join(dict.fromkeys(known))}")
    chosen = set(settings.arms or known)
    planned: list[_Planned] = []
    for seed in range(settings.seed_count):
        jobs: dict[str, ArmJob] = {}  # by all of the recipe but its name
        # Of all arms, so that who shares what does not depend on which are run.
        recipes = [(arm, _recipe(file, arm, settings, seed)) for arm in arms]
        start = Arm(START, "before training", START, ())
        for arm, recipe in [(start, recipes[0][1]), *recipes]:
            job = ArmJob(
                recipe,
                final,
                settings.out / arm.name / f"seed-{recipe.outer.seed}",
                settings.data_folder,
                settings.device,
                settings.compiled,
                trained=arm is not start,
            )
            if job.trained:
                job = jobs.setdefault(recipe_digest(replace(recipe, name="-")), job)
            if arm is start or chosen & {arm.line, arm.name}:
                planned.append(_Planned(arm, recipe.outer.seed, job))
    return tuple(planned)


def _recipe(file: ExperimentFile, arm: Arm, settings: RunSettings, seed: int) -> AnyRecipe:
    document = file.document(arm)
    for setting in settings.overrides:
        override(document, setting)
    recipe = parse_recipe(document, f"{file.experiment.name}-{arm.name}")
    outer = replace(
        recipe.outer,
        seed=recipe.outer.seed + seed,
        meta_iterations=_scaled(recipe.outer.meta_iterations, settings.scale),
        meta_step_size=recipe.outer.meta_step_size * settings.step_scale,
        meta_step_size_final=recipe.outer.meta_step_size_final * settings.step_scale,
    )
    interval = _scaled(recipe.evaluation.interval, settings.scale)
    if isinstance(recipe, SineRecipe):
        count = settings.task_count or recipe.evaluation.task_count
        measured = replace(recipe.evaluation, interval=interval, task_count=count)
        return replace(recipe, outer=outer, evaluation=measured)
    return replace(recipe, outer=outer, evaluation=replace(recipe.evaluation, interval=interval))


def _scaled(count: int, scale: float) -> int:
    return max(1, round(count * scale))


def _run_all(
    jobs: Sequence[ArmJob], settings: RunSettings, follow: Follow, say: Callable[[str], None]
) -> Iterator[ArmScores]:
    if settings.job_count == 1:
        for number, job in enumerate(jobs, 1):
            title = _title(job, settings.out)
            with _naming(title):
                scores = train_arm(job, follow(f"{title} ({number} of {len(jobs)})"), say)
            yield scores
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads and locks
    with ProcessPoolExecutor(settings.job_count, mp_context=context) as pool:
        running = [(job, pool.submit(_run_alone, job)) for job in jobs]
        for number, (job, future) in enumerate(running, 1):
            title = _title(job, settings.out)
            try:
                with _naming(title):
                    scores = future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            say(f"{title} is done ({number} of {len(jobs)})")
            yield scores


def _run_alone(job: ArmJob) -> ArmScores:
    """Train an arm in a process of its own."""
    torch.set_num_threads(1)
    compute_reproducibly()
    return train_arm(job)


@contextmanager
def _naming(title: str) -> Iterator[None]:
    """Let an error say which training it is about."""
    try:
        yield
    except TrainerError as error:
        raise type(error)(f"{title}: {error}") from error


def _title(job: ArmJob, out: Path) -> str:
    return job.folder.relative_to(out).as_posix()


def _curve(folder: Path) -> Sequence[CurvePoint]:
    """Read the points of a finished training."""
    points: Sequence[CurvePoint] = json.loads((folder / CURVES_FILE).read_bytes())["points"]
    return points
