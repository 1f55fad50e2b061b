"""The trainings of a figure: how it is run, and what that makes of its arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import recipe_digest
from studies.figures.figure import START, Arm, Figure

UNTRAINED = Arm(START, "before training", START, "before training", {})


@dataclass(frozen=True)
class RunSettings:
    """How a figure is run.

    `scale` multiplies the meta-iterations and evaluation intervals of all arms, `step_scale` their
    outer step sizes. `overrides` are set in all arms, over their own changes, before that. `arms`
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
class Job:
    """A training in a folder; untrained, its start is scored."""

    recipe: AnyRecipe
    folder: Path
    trained: bool


def plan(figure: Figure, settings: RunSettings) -> list[tuple[Arm, list[Job]]]:
    """List the trainings of a figure's arms, one per seed, the start first; raises `RecipeError`.

    Arms whose recipes differ only in the name share a training. Which ones do does not depend on
    which arms are run.
    """
    known = list(dict.fromkeys(name for arm in figure.arms for name in (arm.line, arm.name)))
    for name in settings.arms:
        if name not in known:
            raise RecipeError(f"arm: expected one of {', '.join(known)}; got {name}")
    chosen = {START, *(settings.arms or known)}
    first: dict[str, Job] = {}  # by the digest of all of the recipe but its name
    planned = []
    for arm in [UNTRAINED, *figure.arms]:
        trained = arm is not UNTRAINED
        of_arm = []
        for seed in range(settings.seed_count):
            recipe = _recipe(figure, arm if trained else figure.arms[0], settings, seed)
            job = Job(recipe, settings.out / arm.name / f"seed-{recipe.outer.seed}", trained)
            digest = recipe_digest(replace(recipe, name="-"))
            of_arm.append(first.setdefault(digest, job) if trained else job)
        if chosen & {arm.line, arm.name}:
            planned.append((arm, of_arm))
    return planned


def _recipe(figure: Figure, arm: Arm, settings: RunSettings, seed: int) -> AnyRecipe:
    """Return an arm's recipe after all settings and scales."""
    recipe = figure.recipe(arm, settings.overrides)
    outer, scale, step_scale = recipe.outer, settings.scale, settings.step_scale
    changes = {
        "outer.seed": outer.seed + seed,
        "outer.meta_iterations": max(1, round(outer.meta_iterations * scale)),
        "outer.meta_step_size": outer.meta_step_size * step_scale,
        "outer.meta_step_size_final": outer.meta_step_size_final * step_scale,
        "evaluation.interval": max(1, round(recipe.evaluation.interval * scale)),
    }
    if settings.task_count and not figure.part:
        changes["evaluation.task_count"] = settings.task_count
    scaled = (f"{key}={value}" for key, value in changes.items())
    return figure.recipe(arm, [*settings.overrides, *scaled])
