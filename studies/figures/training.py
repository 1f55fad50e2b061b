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
from studies.figures.figure import ZERO, FinalTasks
from studies.figures.scores import ArmScores, Wave, read_scores, write_scores

__all__ = ["ArmJob", "train_arm"]

WAVE_CHOICES = 5


@dataclass(frozen=True)
class ArmJob:
    """One training in a folder; with `trained` false its untrained start is scored instead.

    `final` and `data_folder` are None for sine waves.
    """

    recipe: AnyRecipe
    final: FinalTasks | None
    folder: Path
    data_folder: Path | None
    device: str
    compiled: bool | None
    trained: bool = True


@dataclass(frozen=True)
class _Comparison:
    """A training, the digest of all that decides its result, and how the result is scored."""

    training: Training[Any]
    identity: str
    score: Callable[[Initialization], ArmScores]


def train_arm(
    job: ArmJob,
    report: Callable[[TrainingReport], None] = lambda _report: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> ArmScores:
    """Train an arm, or resume it, and score it; a finished one is read.

    Raises `TrainingError` and `DataError` as `kshot.trainer.loop.image_run.train` does.
    """
    recipe = job.recipe
    comparison = _sine(job, recipe) if isinstance(recipe, SineRecipe) else _images(job, recipe)
    finished = read_scores(job.folder, comparison.identity)
    if finished is not None:
        return finished
    training = comparison.training
    state = training.first
    if job.trained:
        state = run_training(
            training,
            job.folder,
            resume=(job.folder / CHECKPOINT_FILE).exists(),
            compiled=job.compiled,
            report=report,
            say=say,
        )
    scores = comparison.score(training.initialization(state))
    write_scores(job.folder, scores)
    return scores


def _images(job: ArmJob, recipe: Recipe) -> _Comparison:
    final, inner, evaluation = job.final, recipe.inner, recipe.evaluation
    assert final is not None and job.data_folder is not None  # noqa: S101 -- as documented
    part = final.part or "test"
    train, unseen = (
        _dataset(recipe.data, recipe.input, job.data_folder, name) for name in ("train", part)
    )
    manifest = draft_manifest(recipe, train)
    training = image_training(recipe, manifest, train, unseen, torch.device(job.device))
    identity = _identity(training, unseen.digest, final, job.trained)

    def evaluate(
        initialization: Initialization, task_count: int, query_count: int, seed: int
    ) -> dict[BatchNormMode, EvaluationResult]:
        settings = EvaluationSettings(
            way=evaluation.way,
            shot=evaluation.shot,
            query_count=query_count,
            task_count=task_count,
            batch_norm_mode=MODES[0],
            step_count=evaluation.step_count,
            batch_size=evaluation.batch_size,
            learning_rate=inner.learning_rate,
            seed=seed,
        )
        evaluator = Evaluator(initialization, manifest, unseen, compiled=job.compiled)
        return evaluator.evaluate(settings, MODES)

    def measure(initialization: Initialization) -> Mapping[str, float]:
        results = evaluate(
            initialization, evaluation.task_count, evaluation.query_count, recipe.outer.seed
        )
        return {f"accuracy/{part}/{mode}": result.accuracy for mode, result in results.items()}

    def score(initialization: Initialization) -> ArmScores:
        results = evaluate(initialization, final.task_count, final.query_count, final.seed)
        return ArmScores(
            identity,
            final.query_count * evaluation.way,
            {mode.value: result.task_accuracies for mode, result in results.items()},
        )

    return _Comparison(replace(training, measure=measure), identity, score)


def _sine(job: ArmJob, recipe: SineRecipe) -> _Comparison:
    training = sine_training(recipe, torch.device(job.device))
    identity = _identity(training, recipe.evaluation, job.trained)

    def score(initialization: Initialization) -> ArmScores:
        fits = sine_fits(initialization, recipe)
        measured = fits.errors()
        # The largest of the first few: a flat wave shows nothing.
        shown = int(fits.wanted[:WAVE_CHOICES].abs().amax(dim=1).argmax())
        support = fits.support[shown].sort().values
        places = torch.searchsorted(fits.x, support - 1e-6)
        names = [f"{count}_steps" for count in fits.step_counts]
        errors = [*measured.errors, measured.zero]
        return ArmScores(
            identity,
            0,
            {name: row.tolist() for name, row in zip([*names, ZERO], errors, strict=True)},
            Wave(
                fits.x.tolist(),
                fits.wanted[shown].tolist(),
                support.tolist(),
                fits.wanted[shown][places].tolist(),
                {name: fit[shown].tolist() for name, fit in zip(names, fits.outputs, strict=True)},
            ),
        )

    return _Comparison(training, identity, score)


@cache
def _dataset(data: Data, spec: InputSpec, data_folder: Path, part: str) -> ImageDataset:
    """Read a part once for all arms of a process; raises `DataError`."""
    return read_dataset(data, data_folder, part, input_spec=spec)


def _identity(training: Training[Any], *others: object) -> str:
    """Return the SHA-256 of all that decides an arm's scores."""
    text = repr((training.identity, [plain(other) for other in others]))
    return hashlib.sha256(text.encode()).hexdigest()
