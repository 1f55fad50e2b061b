"""The trainings of a run, one after another, and their scores on the tasks that arms share."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kshot.bundle.document import plain
from kshot.learner import Initialization
from kshot.local import write_file
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.datasets.device_images import DevicePixels, enlarged
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import TrainerError, writing
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.learning_curve import MODES, Curves, curve_tasks
from kshot.trainer.loop.image_run import image_training
from kshot.trainer.loop.run import CHECKPOINT_FILE, Training, TrainingReport, run_training
from kshot.trainer.output.curve_file import CURVES_FILE
from kshot.trainer.output.curve_plot import CurvePoint
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.evaluation import sine_fits
from kshot.trainer.sine.run import sine_training
from studies.figures.figure import ZERO, Arm, Figure, Job, RunSettings, plan

WAVE_CHOICES = 5
# What an arm reaches, as its scores.json keeps it; its `identity` is that of training and tasks.
Scores = dict[str, Any]
Report = Callable[[TrainingReport], None]
Say = Callable[[str], None]
# A training, the tasks that it is scored on, and how its result is scored.
Prepared = tuple[Training, Sequence[object], Callable[[Initialization], Scores]]
# Reads a part of a data set once for all arms.
read_once = cache(read_dataset)


@dataclass(frozen=True)
class Outcome:
    """What an arm reached: its scores, each `(seeds, tasks)`, and its learning curves.

    Scores are accuracies in 0..1 of `query_count` queries, by batch-norm mode, or squared errors by
    number of inner steps; `query_count` is then 0. Of sine waves, `picture` holds one: its values
    `wanted` at `x`, its support set `support_x` and `support_y`, and the `fits` by inner steps.
    `recipe` and `picture` are those of the first seed. The untrained start's curves are empty.
    """

    arm: Arm
    recipe: AnyRecipe
    query_count: int
    scores: Mapping[str, npt.NDArray[np.float64]]
    curves: Sequence[Sequence[CurvePoint]] = ()
    picture: Mapping[str, Any] | None = None

    @property
    def value(self) -> float | None:
        """Return the value of the swept key after all changes and scales, None without a sweep."""
        return None if self.arm.key is None else float(attrgetter(self.arm.key)(self.recipe))

    @property
    def compared(self) -> list[str]:
        """Name the scores that claims compare."""
        return compared_names(self.scores, self.query_count)


def run_figure(figure: Figure, settings: RunSettings, report: Report, say: Say) -> list[Outcome]:
    """Run all trainings of a figure and return the outcomes, that of the untrained start first.

    Finished trainings are read, unfinished ones resume. `say` hears the folder of each before its
    reports. Raises `TrainerError`.
    """
    outcomes = []
    for arm, jobs in plan(figure, settings):
        kept, curves = [], []
        for job in jobs:
            title = job.folder.relative_to(settings.out).as_posix()
            say(title)
            try:
                kept.append(train_arm(figure, settings, job, report, say))
            except TrainerError as error:
                raise type(error)(f"{title}: {error}") from error
            kept_curve = (job.folder / CURVES_FILE).read_bytes() if job.trained else b"{}"
            curves.append(json.loads(kept_curve).get("points", []))
        first = kept[0]
        scores = {name: np.array([one["scores"][name] for one in kept]) for name in first["scores"]}
        of_first = first["query_count"], scores, curves, first["picture"]
        outcomes.append(Outcome(arm, jobs[0].recipe, *of_first))
    return outcomes


def compared_names(scores: Iterable[str], query_count: int) -> list[str]:
    """Name the scores that are compared: each batch-norm mode, or the most inner steps."""
    measured = [name for name in scores if name != ZERO]
    return measured if query_count else measured[-1:]


def train_arm(figure: Figure, settings: RunSettings, job: Job, report: Report, say: Say) -> Scores:
    """Train or resume an arm and score it, or read its scores."""
    recipe, path = job.recipe, job.folder / "scores.json"
    if isinstance(recipe, SineRecipe):
        training, tasks, score = _sine(recipe, settings)
    else:
        training, tasks, score = _images(recipe, figure, settings)
    text = repr((training.identity, [*tasks, job.trained]))
    identity = hashlib.sha256(text.encode()).hexdigest()
    kept: Scores = json.loads(path.read_bytes()) if path.exists() else {}
    if kept.get("identity") == identity:
        return kept
    state = training.first
    if job.trained:
        resume, compiled = (job.folder / CHECKPOINT_FILE).exists(), settings.compiled
        state = run_training(
            training, job.folder, resume=resume, compiled=compiled, report=report, say=say
        )
    scores = {"identity": identity, **score(training.initialization(state))}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(scores).encode())
    return scores


def _images(recipe: Recipe, figure: Figure, settings: RunSettings) -> Prepared:
    part, query_count = figure.part, figure.query_count
    folder = choose_data_folder(settings.data_folder)
    larger = enlarged(recipe.input, recipe.oversampling)
    train, unseen = (
        read_once(recipe.data, folder, name, input_spec=spec)
        for name, spec in (("train", larger), (part, recipe.input))
    )
    manifest = draft_manifest(recipe, train)
    training = image_training(recipe, manifest, train, unseen, settings.device)
    pixels = DevicePixels.load(unseen, recipe.input, settings.device)
    curves = Curves(recipe, manifest, {part: unseen}, {part: pixels})
    along, task_count = curve_tasks(recipe), settings.task_count or figure.task_count
    tasks = [unseen.digest, part, task_count, query_count]
    compared = replace(along, task_count=task_count, query_count=query_count, seed=0)

    def score(start: Initialization) -> Scores:
        evaluator = Evaluator(start, manifest, unseen, pixels=pixels, compiled=settings.compiled)
        found = evaluator.evaluate(compared, MODES)
        accuracies = {mode.value: of.task_accuracies for mode, of in found.items()}
        queries = query_count * compared.way
        return {"query_count": queries, "scores": accuracies, "picture": None}

    return replace(training, measure=curves.measure), tasks, score


def _sine(recipe: SineRecipe, settings: RunSettings) -> Prepared:
    def score(start: Initialization) -> Scores:
        fits = sine_fits(start, recipe)
        names = [f"{count}_steps" for count in fits.step_counts]
        errors = dict(zip(names, fits.errors.tolist(), strict=True))
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
        scores = {**errors, ZERO: fits.zero_errors.tolist()}
        return {"query_count": 0, "scores": scores, "picture": picture}

    return sine_training(recipe, settings.device), [plain(recipe.evaluation)], score
