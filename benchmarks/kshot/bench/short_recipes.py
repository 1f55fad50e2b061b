"""Run a recipe for a short length and compare what it learns with what it starts from."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.loop.image_run import image_training
from kshot.trainer.loop.run import Training, resumed_state
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import sine_errors
from kshot.trainer.sine.run import sine_training
from kshot.trainer.statistics import T_METHOD, t_half_width
from kshot.trainer.tasks.episode_file import draw_episodes
from kshot.trainer.tasks.training_tasks import Drawn

__all__ = ["Compared", "ShortData", "ShortRun", "run_short"]

CPU = torch.device("cpu")
# What takes time and decides nothing here: points of the curves and the bundle's own table.
FEW = ("evaluation.task_count=2", "evaluation.table.task_count=2")
RATE_SECONDS = 2.0


@dataclass(frozen=True)
class ShortRun:
    """How a recipe is cut short, and the test tasks on which start and end are compared.

    ``settings`` are further ones, as for ``--set``. ``query_count`` is per class; ``step_count`` is
    that of both adaptations, with None the bundle's own. Sine waves have tasks of their own.
    """

    recipe: str
    meta_iterations: int
    settings: tuple[str, ...] = ()
    task_count: int = 600
    query_count: int = 5
    step_count: int | None = None

    def scaled(self, scale: float) -> "ShortRun":
        """Return the run with its meta-iterations multiplied, at least one."""
        return replace(self, meta_iterations=max(1, round(self.meta_iterations * scale)))


@dataclass(frozen=True)
class ShortData:
    """Where the images are, and the settings that lead a recipe to those that were generated."""

    folder: Path
    generated: bool
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """The measure of each test task before and after training, of the same tasks.

    ``measure`` is "accuracy" in 0..1, or "squared_error", of which less is better. ``rate`` is that
    of uncompiled meta-iterations in a second of this process's CPU time.
    """

    measure: str
    tasks: str
    start: Sequence[float]
    end: Sequence[float]
    rate: float

    def document(self) -> dict[str, object]:
        """Lay out the means, the paired difference, and whether it is above its half width."""
        worse, better = self.start, self.end
        if self.measure == "squared_error":
            worse, better = better, worse
        difference = paired_difference(better, worse)
        return {
            "measure": self.measure,
            "tasks": self.tasks,
            "start": float(np.mean(self.start)),
            "start_ci95": t_half_width(np.asarray(self.start)),
            "end": float(np.mean(self.end)),
            "end_ci95": t_half_width(np.asarray(self.end)),
            "ci_method": T_METHOD,
            "improvement": difference.mean,
            "improvement_ci95": difference.half_width,
            "improvement_method": difference.method,
            "improved": difference.mean > difference.half_width,
            "meta_iterations_per_cpu_second": self.rate,
        }


def run_short(
    run: ShortRun, data: ShortData, out: Path, train: Callable[[Sequence[str]], None]
) -> dict[str, object]:
    """Train by the recipe's one command, compare, and return the row of the result.

    ``train`` runs ``kshot`` with the arguments that it is given.
    """
    settings = (f"outer.meta_iterations={run.meta_iterations}", *run.settings)
    if isinstance(load_recipe(run.recipe), Recipe):
        settings = (*settings, *FEW, *data.settings)
    recipe = load_recipe(run.recipe, settings)
    arguments = ["train", run.recipe]
    arguments += [word for setting in settings for word in ("--set", setting)]
    arguments += ["--no-compile", "--device", "cpu"]
    images = ["--data", str(data.folder)] if isinstance(recipe, Recipe) else []
    started = time.monotonic()
    train([*arguments, "--out", str(out), *images])
    seconds = time.monotonic() - started
    if isinstance(recipe, SineRecipe):
        compared = _compare_waves(recipe, out)
    else:
        compared = _compare_images(run, recipe, data.folder, out)
    source = "waves" if isinstance(recipe, SineRecipe) else "real"
    return {
        "recipe": run.recipe,
        "command": shlex.join(["kshot", *arguments]),
        "meta_iterations": run.meta_iterations,
        "data": "generated" if images and data.generated else source,
        **compared.document(),
        "seconds": seconds,
        "device": "cpu",
    }


def _compare_images(run: ShortRun, recipe: Recipe, folder: Path, out: Path) -> Compared:
    train, test = (
        read_dataset(recipe.data, folder, part, input_spec=recipe.input)
        for part in ("train", "test")
    )
    manifest = draft_manifest(recipe, train)
    training = image_training(recipe, manifest, train, test, CPU)
    evaluation = recipe.evaluation
    settings = EvaluationSettings(
        way=evaluation.way,
        shot=evaluation.shot,
        query_count=run.query_count,
        task_count=run.task_count,
        batch_norm_mode=manifest.batch_norm.default,
        step_count=run.step_count or manifest.inner_loop.step_count,
        batch_size=evaluation.batch_size,
    )
    episodes = draw_episodes(test, settings.task_shape)
    pixels = DevicePixels.load(test, recipe.input, CPU)

    def accuracies(initialization: Initialization) -> Sequence[float]:
        evaluator = Evaluator(initialization, manifest, test, pixels=pixels)
        results = evaluator.evaluate(settings, episodes=episodes)
        return results[settings.batch_norm_mode].task_accuracies

    start, end = _states(training, out)
    tasks = (
        f"{run.task_count} {settings.way}-way {settings.shot}-shot tasks of test classes, "
        f"{run.query_count} queries per class, {settings.step_count} steps, batch-norm mode "
        f"{settings.batch_norm_mode}, episodes {episodes.digest[:12]}"
    )
    return Compared("accuracy", tasks, accuracies(start), accuracies(end), _rate(training))


def _compare_waves(recipe: SineRecipe, out: Path) -> Compared:
    training = sine_training(recipe, CPU)
    start, end = (sine_errors(state, recipe) for state in _states(training, out))
    tasks = (
        f"{recipe.evaluation.task_count} waves, squared error over the grid after "
        f"{start.step_counts[-1]} steps"
    )
    errors = (start.errors[-1].tolist(), end.errors[-1].tolist())
    return Compared("squared_error", tasks, *errors, _rate(training))


def _states(training: Training[Drawn], out: Path) -> tuple[Initialization, Initialization]:
    """Return what the training in a folder started from and what it has learned.

    Its checkpoint is refused where it is of another recipe or other images.
    """
    end = resumed_state(training, out)
    return training.initialization(training.first), training.initialization(end)


def _rate(training: Training[Drawn]) -> float:
    """Count meta-iterations in a second of CPU time, which other processes take nothing from."""
    state, _ = training.loop.advance(training.first)
    count, started = 0, time.process_time()
    while time.process_time() - started < RATE_SECONDS:
        state, _ = training.loop.advance(state)
        count += 1
    return count / (time.process_time() - started)
