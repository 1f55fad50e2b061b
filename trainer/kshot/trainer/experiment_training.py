"""The training of one arm of an experiment, and its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kshot.bundle import InputSpec, Manifest
from kshot.bundle.document import plain
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.learning_curve import MODES
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.experiment import ZERO, FinalTasks
from kshot.trainer.experiment_scores import ArmScores, Picture, read_scores, write_scores
from kshot.trainer.loop.image_run import image_training
from kshot.trainer.loop.run import CHECKPOINT_FILE, Training, TrainingReport, run_training
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import Data, Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import sine_fits
from kshot.trainer.sine.run import sine_training

__all__ = ["ArmJob", "train_arm"]

PICTURE_CHOICES = 5


@dataclass(frozen=True)
class ArmJob:
    """One training to be done in a folder; with ``trained`` false its start is scored instead."""

    recipe: AnyRecipe
    final: FinalTasks | None
    folder: Path
    data_folder: Path | None
    device: str
    compiled: bool | None
    trained: bool = True


@dataclass(frozen=True)
class _Comparison:
    """A training, what tells it from others, and how its result is scored."""

    training: Training[Any]
    identity: str
    score: Callable[[Initialization], ArmScores]


def train_arm(
    job: ArmJob,
    report: Callable[[TrainingReport], None] = lambda _report: None,
    say: Callable[[str], None] = lambda _sentence: None,
) -> ArmScores:
    """Train an arm, or go on with it, and score it; what was finished before is read.

    Raises ``TrainingError`` and ``DataError`` as ``kshot.trainer.loop.image_run.train`` does.
    """
    comparison = _sine(job) if isinstance(job.recipe, SineRecipe) else _images(job)
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


@dataclass(frozen=True)
class _ImageScores:
    """Evaluates on a part's classes by the recipe's inner loop of evaluation, in two modes."""

    recipe: Recipe
    manifest: Manifest
    part: str
    dataset: ImageDataset
    compiled: bool | None

    def measure(self, initialization: Initialization) -> Mapping[str, float]:
        """Return a point of the curves: accuracies on the recipe's tasks of evaluation."""
        evaluation = self.recipe.evaluation
        tasks = FinalTasks(evaluation.task_count, evaluation.query_count, self.recipe.outer.seed)
        results = self.results(initialization, tasks)
        return {f"accuracy/{self.part}/{mode}": result.accuracy for mode, result in results.items()}

    def results(
        self, initialization: Initialization, tasks: FinalTasks
    ) -> dict[str, EvaluationResult]:
        """Return what an initialization reaches on tasks, by batch-norm mode."""
        evaluation, inner = self.recipe.evaluation, self.recipe.inner
        settings = EvaluationSettings(
            way=evaluation.way,
            shot=evaluation.shot,
            query_count=tasks.query_count,
            task_count=tasks.task_count,
            batch_norm_mode=MODES[0],
            step_count=evaluation.step_count,
            batch_size=evaluation.batch_size,
            learning_rate=inner.learning_rate,
            seed=tasks.seed,
        )
        evaluator = Evaluator(initialization, self.manifest, self.dataset, compiled=self.compiled)
        results = evaluator.evaluate(settings, MODES)
        return {mode.value: result for mode, result in results.items()}


def _images(job: ArmJob) -> _Comparison:
    recipe, final = job.recipe, job.final
    assert isinstance(recipe, Recipe)  # noqa: S101 -- the caller told them apart
    if final is None or job.data_folder is None:
        missing = "[final] tasks" if final is None else "data folder"
        raise TrainingError(f"recipe {recipe.name} is on images, wanted a {missing} beside it")
    part = final.part or "test"
    train, unseen = (
        _dataset(recipe.data, recipe.input, job.data_folder, name) for name in ("train", part)
    )
    manifest = draft_manifest(recipe, train)
    evaluation = _ImageScores(recipe, manifest, part, unseen, job.compiled)
    training = image_training(recipe, manifest, train, unseen, torch.device(job.device))
    identity = _identity(training, unseen.digest, final, job.trained)

    def score(initialization: Initialization) -> ArmScores:
        results = evaluation.results(initialization, final)
        return ArmScores(
            identity,
            final.query_count * recipe.evaluation.way,
            {mode: result.task_accuracies for mode, result in results.items()},
        )

    return _Comparison(replace(training, measure=evaluation.measure), identity, score)


def _sine(job: ArmJob) -> _Comparison:
    recipe = job.recipe
    assert isinstance(recipe, SineRecipe)  # noqa: S101 -- the caller told them apart
    training = sine_training(recipe, torch.device(job.device))
    identity = _identity(training, recipe.evaluation, job.trained)

    def score(initialization: Initialization) -> ArmScores:
        fits = sine_fits(initialization, recipe)
        measured = fits.errors()
        # The largest of the first few: a flat wave shows nothing.
        shown = int(fits.wanted[:PICTURE_CHOICES].abs().amax(dim=1).argmax())
        support = fits.support[shown].sort().values
        places = torch.searchsorted(fits.x, support - 1e-6)
        names = [f"{count}_steps" for count in fits.step_counts]
        errors = [*measured.errors, measured.zero]
        return ArmScores(
            identity,
            0,
            {name: row.tolist() for name, row in zip([*names, ZERO], errors, strict=True)},
            Picture(
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
    """Read a part once for all arms of a process; raises ``DataError``."""
    return read_dataset(data, data_folder, part, input_spec=spec)


def _identity(training: Training[Any], *others: object) -> str:
    """Return the SHA-256 of what decides an arm's scores."""
    text = repr((training.identity, [plain(other) for other in others]))
    return hashlib.sha256(text.encode()).hexdigest()
