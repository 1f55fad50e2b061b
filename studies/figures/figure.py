"""A figure: what its script says, how it is run, and the trainings that this makes."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import recipe_digest
from studies.common.rows import ROWS

# What a claim may name beside an arm: the untrained network, and the zero function.
START, ZERO = "start", "zero"


@dataclass(frozen=True)
class Arm:
    """One training: `settings` change the figure's recipe, each as for `--set`.

    `line` names the plotted line and `label` its entry in the legend. `key` is the swept key of an
    arm that is one point of a line.
    """

    name: str
    title: str
    settings: Sequence[str]
    line: str
    label: str
    key: str | None = None


UNTRAINED = Arm(START, "before training", (), START, "before training")


@dataclass(frozen=True)
class Claim:
    """A claim that `factor * score(higher) - score(lower)` is above `least_difference`.

    Scores are accuracies in 0..1 or squared errors. The claim holds when the whole 95 % interval of
    the paired difference is above. A negative `least_difference` allows `higher` to be that much
    worse.
    """

    text: str
    lower: str
    higher: str
    least_difference: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One of the plots side by side; `lines` are the beginnings of the names of its lines."""

    draw: Callable[[Any], None]  # of a `Drawing`
    title: str
    x_label: str
    lines: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Figure:
    """Trainings that differ in few settings and what their comparison should show.

    The recipe that the arms change is `NAME.toml` beside the script. Arms over images are compared
    on `task_count` tasks, with `query_count` queries per class, of the data set's `part`; so are
    their learning curves. Of sine waves `part` is empty: the recipe says what is compared.
    """

    name: str
    title: str
    panels: Sequence[Panel] = ()
    claims: Sequence[Claim] = ()
    part: str = "test"
    task_count: int = 1000
    query_count: int = 5

    @cached_property
    def arms(self) -> Sequence[Arm]:
        """Read the arms of `studies/rows/NAME.toml`.

        A row with a `key` is a line of several arms, one for each of its `values`.
        """
        arms = []
        for line, row in tomllib.loads((ROWS / f"{self.name}.toml").read_text()).items():
            label, settings, key = row["title"], row["settings"], row.get("key")
            if key is None:
                arms.append(Arm(line, label, settings, line, label))
            for value in row.get("values", ()):
                name = f"{line}-{value:g}".replace(".", "-")
                swept = [*settings, f"{key}={value}"]
                arms.append(Arm(name, f"{label}, {key} {value:g}", swept, line, label, key))
        return arms

    def recipe(self, arm: Arm, overrides: Sequence[str] = ()) -> AnyRecipe:
        """Return an arm's recipe with further settings over it; raises `RecipeError`."""
        base = Path(__file__).with_name(f"{self.name}.toml")
        named = f"name={self.name}-{arm.name}", f"description={self.title}: {arm.title}"
        return load_recipe(str(base), [*named, *arm.settings, *overrides])


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
