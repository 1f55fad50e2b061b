"""The training of one arm, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kshot.bundle import BatchNormMode, InputSpec
from kshot.bundle.document import plain
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.learning_curve import MODES
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.loop.image_run import image_training
from kshot.trainer.loop.run import CHECKPOINT_FILE, Training, TrainingReport, run_training
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import Data, Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import sine_fits
from kshot.trainer.sine.run import sine_training
from studies.figures.figure import ZERO
from studies.figures.scores import ArmScores, read_scores, write_scores

__all__ = ["ArmJob", "Tasks", "train_arm"]

WAVE_CHOICES = 5
Results = dict[BatchNormMode, EvaluationResult]
# A training, the digest of all that decides its scores, and how its result is scored.
Prepared = tuple[Training[Any], str, Callable[[Initialization], ArmScores]]


@dataclass(frozen=True)
class Tasks:
    """The tasks that arms over images are scored on; `query_count` is per class.

    They come from the data set's `part`; None means test, as in the scores of earlier builds.
    """

    task_count: int
    query_count: int
    seed: int = 0
    part: str | None = None


@dataclass(frozen=True)
class ArmJob:
    """One training in a folder; with `trained` false its untrained start is scored instead.

    Sine waves need no `tasks` and no `data_folder`.
    """

    recipe: AnyRecipe
    folder: Path
    trained: bool
    tasks: Tasks
    data_folder: Path | None
    device: torch.device
    compiled: bool | None


def train_arm(
    job: ArmJob, report: Callable[[TrainingReport], None], say: Callable[[str], None]
) -> ArmScores:
    """Train an arm, or resume it, and score it; a finished one is read.

    Raises `TrainingError` and `DataError` as `kshot.trainer.loop.image_run.train` does.
    """
    recipe, folder = job.recipe, job.folder
    prepared = _sine(job, recipe) if isinstance(recipe, SineRecipe) else _images(job, recipe)
    training, identity, score = prepared
    finished = read_scores(folder, identity)
    if finished is not None:
        return finished
    state = training.first
    if job.trained:
        resume = (folder / CHECKPOINT_FILE).exists()
        state = run_training(
            training, folder, resume=resume, compiled=job.compiled, report=report, say=say
        )
    scores = score(training.initialization(state))
    write_scores(folder, scores)
    return scores


def _images(job: ArmJob, recipe: Recipe) -> Prepared:
    evaluation, part = recipe.evaluation, job.tasks.part or "test"
    folder = choose_data_folder(job.data_folder)
    train, unseen = (_dataset(recipe.data, recipe.input, folder, name) for name in ("train", part))
    manifest = draft_manifest(recipe, train)
    training = image_training(recipe, manifest, train, unseen, job.device)
    identity = _identity(training, unseen.digest, job.tasks, job.trained)

    def evaluate(initialization: Initialization, tasks: Tasks) -> Results:
        settings = EvaluationSettings(
            way=evaluation.way,
            shot=evaluation.shot,
            query_count=tasks.query_count,
            task_count=tasks.task_count,
            batch_norm_mode=MODES[0],
            step_count=evaluation.step_count,
            batch_size=evaluation.batch_size,
            learning_rate=recipe.inner.learning_rate,
            seed=tasks.seed,
        )
        evaluator = Evaluator(initialization, manifest, unseen, compiled=job.compiled)
        return evaluator.evaluate(settings, MODES)

    def measure(initialization: Initialization) -> Mapping[str, float]:
        tasks = Tasks(evaluation.task_count, evaluation.query_count, recipe.outer.seed)
        results = evaluate(initialization, tasks)
        return {f"accuracy/{part}/{mode}": result.accuracy for mode, result in results.items()}

    def score(initialization: Initialization) -> ArmScores:
        results = evaluate(initialization, job.tasks)
        accuracies = {mode.value: result.task_accuracies for mode, result in results.items()}
        return ArmScores(identity, job.tasks.query_count * evaluation.way, accuracies)

    return replace(training, measure=measure), identity, score


def _sine(job: ArmJob, recipe: SineRecipe) -> Prepared:
    training = sine_training(recipe, job.device)
    identity = _identity(training, recipe.evaluation, job.trained)

    def score(initialization: Initialization) -> ArmScores:
        fits = sine_fits(initialization, recipe)
        measured = fits.errors()
        names = [f"{count}_steps" for count in fits.step_counts]
        errors = dict(zip(names, measured.errors.tolist(), strict=True))
        # The largest of the first few: a flat wave shows nothing.
        shown = int(fits.wanted[:WAVE_CHOICES].abs().amax(dim=1).argmax())
        support = fits.support[shown].sort().values
        places = torch.searchsorted(fits.x, support - 1e-6)
        picture = {
            "x": fits.x.tolist(),
            "wanted": fits.wanted[shown].tolist(),
            "support_x": support.tolist(),
            "support_y": fits.wanted[shown][places].tolist(),
            "fits": dict(zip(names, fits.outputs[:, shown].tolist(), strict=True)),
        }
        return ArmScores(identity, 0, {**errors, ZERO: measured.zero.tolist()}, picture)

    return training, identity, score


@cache
def _dataset(data: Data, spec: InputSpec, data_folder: Path, part: str) -> ImageDataset:
    """Read a part once for all arms; raises `DataError`."""
    return read_dataset(data, data_folder, part, input_spec=spec)


def _identity(training: Training[Any], *others: object) -> str:
    """Return the SHA-256 of all that decides an arm's scores."""
    text = repr((training.identity, [plain(other) for other in others]))
    return hashlib.sha256(text.encode()).hexdigest()
