"""A meta-training on sine waves, from its recipe to its evaluation."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from kshot.learner import Initialization
from kshot.local import write_file
from kshot.trainer.errors import TrainingError, writing
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
from kshot.trainer.sine.evaluation import SineFits, sine_fits
from kshot.trainer.sine.tasks import SineTasks

RESULT_FILE = "result.json"


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
) -> SineFits:
    """Train, measure the errors on test waves, and write them to `out` as JSON.

    Raises `TrainingError` as `kshot.trainer.loop.image_run.train` does.
    """
    if not resume and workers.first and (out / CHECKPOINT_FILE).exists():
        raise TrainingError(f"{out} holds a training already; resume it or name another folder")
    training = sine_training(recipe, device, workers)
    state = run_training(training, out, resume=resume, compiled=compiled, report=report, say=say)
    measured = sine_fits(training.initialization(state), recipe)
    if workers.first:
        with writing(out / RESULT_FILE):
            text = json.dumps(measured.document(), indent=2) + "\n"
            write_file(out / RESULT_FILE, text.encode())
    return measured


def sine_training(recipe: SineRecipe, device: torch.device, workers: Workers = ALONE) -> Training:
    """Assemble a training; raises `TrainingError` when the network does not fit.

    Its learning curves are mean squared errors on test waves, named `squared_error/N_steps`.
    """
    loop = recipe_loop(recipe, SineTasks(recipe, device), workers)

    def measure(initialization: Initialization) -> Mapping[str, float]:
        measured = sine_fits(initialization, recipe)
        rows = zip(measured.step_counts, measured.errors, strict=True)
        return {f"squared_error/{count}_steps": float(errors.mean()) for count, errors in rows}

    # The recipe describes the data completely.
    identity = TrainingIdentity(recipe_digest(recipe), SINE)
    return Training(recipe, identity, loop, first_state(loop, device), measure)
