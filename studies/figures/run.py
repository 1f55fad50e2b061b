"""A run of a figure: its trainings by their settings, one after another or side by side."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import torch

from kshot.learner import compute_reproducibly
from kshot.trainer.errors import RecipeError, TrainerError
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.output.curve_plot import CurvePoint
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.recipe.sine import SineRecipe
from studies.figures.figure import START, Arm, Figure
from studies.figures.scores import ArmScores
from studies.figures.training import ArmJob, train_arm

__all__ = ["ArmRun", "Outcome", "RunSettings", "plan", "run_figure"]

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class RunSettings:
    """How a figure is run.

    `scale` multiplies the meta-iterations and evaluation intervals of all arms, `step_scale` their
    outer step sizes. `overrides` are set in all arms, over their own settings, before that. `arms`
    names the arms or lines to run; empty means all. Seed i of `seed_count` is the recipe's seed
    plus i, the same for all arms. `task_count` replaces the number of compared tasks.
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
    """The result of one training of an arm; the untrained start has no curve."""

    seed: int
    scores: ArmScores
    curve: Sequence[CurvePoint] = ()


@dataclass(frozen=True)
class Outcome:
    """An arm and its runs, one per seed; `recipe` is that of the first."""

    arm: Arm
    recipe: AnyRecipe
    runs: Sequence[ArmRun]

    @property
    def value(self) -> float | None:
        """Return the value of the swept key after all settings and scales, None without a sweep."""
        return None if self.arm.key is None else float(attrgetter(self.arm.key)(self.recipe))


def run_figure(
    figure: Figure,
    settings: RunSettings,
    *,
    report: Report = lambda _done, _total, _note: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> tuple[Outcome, ...]:
    """Run all trainings of a figure and return the outcomes, that of the untrained start first.

    Finished trainings are read, unfinished ones resume. `report` hears how many meta-iterations of
    all trainings are done, and a note on the current one. Raises `TrainerError`.
    """
    planned = plan(figure, settings)
    jobs = {job.folder: job for _, job in planned}
    scores = dict(zip(jobs, _run_all(list(jobs.values()), settings, report, say), strict=True))
    outcomes: dict[str, Outcome] = {}
    for arm, job in planned:
        curve = _curve(job.folder) if job.trained else ()
        run = ArmRun(job.recipe.outer.seed, scores[job.folder], curve)
        known = outcomes.get(arm.name, Outcome(arm, job.recipe, ()))
        outcomes[arm.name] = replace(known, runs=(*known.runs, run))
    return tuple(outcomes.values())


def plan(figure: Figure, settings: RunSettings) -> tuple[tuple[Arm, ArmJob], ...]:
    """List the arms of a figure with their trainings, seed by seed; raises `RecipeError`.

    Arms whose recipes differ only in the name share a folder, and so a training.
    """
    final = figure.final
    if final is not None and settings.task_count is not None:
        final = replace(final, task_count=settings.task_count)
    known = [name for arm in figure.arms for name in (arm.line, arm.name)]
    for name in settings.arms:
        if name not in known:
            raise RecipeError(f"arm: expected one of {', '.join(dict.fromkeys(known))}; got {name}")
    chosen = set(settings.arms or known)
    planned: list[tuple[Arm, ArmJob]] = []
    for seed in range(settings.seed_count):
        jobs: dict[str, ArmJob] = {}  # by the digest of all of the recipe but its name
        # Of all arms, so that which arms share a training does not depend on which are run.
        recipes = [(arm, _recipe(figure, arm, settings, seed)) for arm in figure.arms]
        start = Arm(START, "before training", START, "before training", ())
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
                planned.append((arm, job))
    return tuple(planned)


def _recipe(figure: Figure, arm: Arm, settings: RunSettings, seed: int) -> AnyRecipe:
    recipe = figure.recipe(arm, settings.overrides)
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
    jobs: Sequence[ArmJob], settings: RunSettings, report: Report, say: Callable[[str], None]
) -> Iterator[ArmScores]:
    done, total = 0, sum(map(_length, jobs))
    pool, running = None, []
    if settings.job_count > 1:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would copy torch's threads and locks
        pool = ProcessPoolExecutor(settings.job_count, mp_context=context)
        running = [pool.submit(_run_alone, job) for job in jobs]
    try:
        for number, job in enumerate(jobs):
            title = job.folder.relative_to(settings.out).as_posix()

            def hear(heard: TrainingReport, before: int = done, title: str = title) -> None:
                note = f"{title}, {heard.meta_iterations_per_second:.1f}/s, loss {heard.loss:.3f}"
                report(before + heard.meta_iteration, total, note)

            try:
                yield running[number].result() if running else train_arm(job, hear, say)
            except TrainerError as error:
                raise type(error)(f"{title}: {error}") from error
            done += _length(job)
            if running:
                report(done, total, f"{title} is done")
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _run_alone(job: ArmJob) -> ArmScores:
    """Train an arm in a process of its own."""
    torch.set_num_threads(1)
    compute_reproducibly()
    return train_arm(job)


def _length(job: ArmJob) -> int:
    return job.recipe.outer.meta_iterations if job.trained else 0


def _curve(folder: Path) -> Sequence[CurvePoint]:
    points: Sequence[CurvePoint] = json.loads((folder / CURVES_FILE).read_bytes())["points"]
    return points
