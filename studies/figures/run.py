"""A run of a figure: its trainings by their settings, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import torch

from kshot.trainer.errors import RecipeError, TrainerError
from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.output.curve_plot import CurvePoint
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.recipe.sine import SineRecipe
from studies.figures.figure import START, Arm, Figure
from studies.figures.scores import ArmScores
from studies.figures.training import ArmJob, Tasks, train_arm

__all__ = ["UNTRAINED", "ArmRun", "Outcome", "RunSettings", "plan", "run_figure"]

UNTRAINED = Arm(START, "before training", START, "before training")


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
    device: torch.device
    compiled: bool | None
    scale: float = 1.0
    step_scale: float = 1.0
    seed_count: int = 1
    overrides: Sequence[str] = ()
    arms: Sequence[str] = ()
    task_count: int | None = None


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
    report: Callable[[int, int, str], None] = lambda _done, _total, _note: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> tuple[Outcome, ...]:
    """Run all trainings of a figure and return the outcomes, that of the untrained start first.

    Finished trainings are read, unfinished ones resume. `report` hears how many meta-iterations of
    all trainings are done, and a note on the current one. Raises `TrainerError`.
    """
    planned = plan(figure, settings)
    lengths = {job.folder: job.recipe.outer.meta_iterations for _, job in planned if job.trained}
    done, total = 0, sum(lengths.values())
    runs: dict[Path, ArmRun] = {}
    outcomes: dict[str, Outcome] = {}
    for arm, job in planned:
        title = job.folder.relative_to(settings.out).as_posix()

        def hear(heard: TrainingReport, before: int = done, title: str = title) -> None:
            note = f"{title}, {heard.meta_iterations_per_second:.1f}/s, loss {heard.loss:.3f}"
            report(before + heard.meta_iteration, total, note)

        if job.folder not in runs:
            try:
                scores = train_arm(job, hear, say)
            except TrainerError as error:
                raise type(error)(f"{title}: {error}") from error
            curves = (job.folder / CURVES_FILE).read_bytes() if job.trained else b'{"points": []}'
            runs[job.folder] = ArmRun(job.recipe.outer.seed, scores, json.loads(curves)["points"])
            done += lengths.get(job.folder, 0)
        known = outcomes.get(arm.name, Outcome(arm, job.recipe, ()))
        outcomes[arm.name] = replace(known, runs=(*known.runs, runs[job.folder]))
    return tuple(outcomes.values())


def plan(figure: Figure, settings: RunSettings) -> list[tuple[Arm, ArmJob]]:
    """List the arms of a figure with their trainings, seed by seed; raises `RecipeError`.

    Arms whose recipes differ only in the name share a folder, and so a training.
    """
    task_count, part = settings.task_count or figure.task_count, figure.part
    tasks = Tasks(task_count, figure.query_count, part=None if part == "test" else part)
    known = [name for arm in figure.arms for name in (arm.line, arm.name)]
    for name in settings.arms:
        if name not in known:
            raise RecipeError(f"arm: expected one of {', '.join(dict.fromkeys(known))}; got {name}")
    chosen = {START, *(settings.arms or known)}
    planned = []
    for seed in range(settings.seed_count):
        jobs: dict[str, ArmJob] = {}  # by the digest of all of the recipe but its name
        # Of all arms, so that which arms share a training does not depend on which are run.
        recipes = [(arm, _recipe(figure, arm, settings, seed)) for arm in figure.arms]
        for arm, recipe in [(UNTRAINED, recipes[0][1]), *recipes]:
            trained = arm is not UNTRAINED
            folder = settings.out / arm.name / f"seed-{recipe.outer.seed}"
            where = settings.data_folder, settings.device, settings.compiled
            job = ArmJob(recipe, folder, trained, tasks, *where)
            if trained:
                job = jobs.setdefault(recipe_digest(replace(recipe, name="-")), job)
            if chosen & {arm.line, arm.name}:
                planned.append((arm, job))
    return planned


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
