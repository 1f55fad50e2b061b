"""A meta-training on sine waves, from its recipe to its evaluation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kshot.bundle import replace_file
from kshot.learner import Initialization, Network, build_network
from kshot.trainer.errors import TrainingError
from kshot.trainer.loop.checkpoint import TrainingIdentity
from kshot.trainer.loop.recipe_loop import recipe_loop
from kshot.trainer.loop.run import (
    CHECKPOINT_FILE,
    Training,
    TrainingReport,
    first_state,
    run_training,
)
from kshot.trainer.loop.workers import ALONE, Workers
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.recipe.sine import SINE, SineRecipe
from kshot.trainer.sine.evaluation import SineErrors, sine_errors
from kshot.trainer.sine.tasks import DrawnWaves, SineTasks

__all__ = ["RESULT_FILE", "SineCurves", "sine_training", "train_sine"]

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class SineCurves:
    """What is measured along a training."""

    recipe: SineRecipe

    def measure(self, initialization: Initialization) -> Mapping[str, float]:
        """Return mean squared errors on test waves, keyed ``squared_error/<steps>_steps``."""
        measured = sine_errors(initialization, self.recipe)
        rows = zip(measured.step_counts, measured.errors, strict=True)
        return {f"squared_error/{count}_steps": float(errors.mean()) for count, errors in rows}


def train_sine(
    recipe: SineRecipe,
    out: Path,
    *,
    resume: bool,
    device: torch.device,
    compiled: bool | None,
    report: Callable[[TrainingReport], None],
    say: Callable[[str], None] = lambda _sentence: None,
    workers: Workers = ALONE,
) -> SineErrors:
    """Train, and measure the errors on test waves, which ``out`` then holds as JSON.

    Raises ``TrainingError`` where ``kshot.trainer.loop.image_run.train`` does.
    """
    if not resume and workers.first and (out / CHECKPOINT_FILE).exists():
        raise TrainingError(f"{out} holds a training already: resume it, or name another folder")
    training = sine_training(recipe, device, workers)
    state = run_training(training, out, resume=resume, compiled=compiled, report=report, say=say)
    measured = sine_errors(training.initialization(state), recipe)
    if workers.first:
        _write(out / RESULT_FILE, measured)
    return measured


def sine_training(
    recipe: SineRecipe, device: torch.device, workers: Workers = ALONE
) -> Training[DrawnWaves]:
    """Put a training together; raises ``TrainingError`` when the network does not fit."""
    network = _network(recipe)
    loop = recipe_loop(recipe, SineTasks(recipe, device), network, workers)
    return Training(
        recipe,
        TrainingIdentity(recipe_digest(recipe), SINE),  # waves are made: the recipe says all
        loop,
        first_state(loop, device),
        SineCurves(recipe).measure,
    )


def _network(recipe: SineRecipe) -> Network:
    try:
        network = build_network(recipe.network, recipe.input_shape, recipe.batch_norm_epsilon)
    except ValueError as error:
        raise TrainingError(f"recipe {recipe.name}: {error}") from None
    if network.statistics_shapes:
        raise TrainingError(
            f"recipe {recipe.name}: network {recipe.network.name} normalizes over a batch, "
            "wanted one without batch norm for regression"
        )
    return network


def _write(path: Path, measured: SineErrors) -> None:
    text = json.dumps(measured.document(), indent=2) + "\n"
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error
