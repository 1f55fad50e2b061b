"""One target of the reproduction measured: a bundle adapts to its tasks, and each mode is a row."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kshot.bench.environment import environment
from kshot.bench.evaluated_bundle import weights_digest
from kshot.bench.reproduction_counts import count_right_answers
from kshot.bench.reproduction_rows import Adaptation, Target, adaptation_for
from kshot.bench.row_file import Row
from kshot.bundle import BatchNormMode, Bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.tasks import prepare_tasks
from kshot.trainer.recipe.files import list_recipes, load_recipe
from kshot.trainer.statistics import accuracy_interval

__all__ = ["Asked", "command_for", "described", "measure_target"]

TASK_SEED = 0


@dataclass(frozen=True)
class Asked:
    """A target, the bundle that answers it, and on how many tasks.

    ``builtin`` is the bundle's name where it ships with the package.
    """

    target: Target
    bundle: Bundle
    builtin: str | None
    task_count: int

    @property
    def adaptation(self) -> Adaptation:
        """Return how the tasks are adapted to."""
        return adaptation_for(self.target, self.bundle.manifest)


def measure_target(
    asked: Asked,
    dataset: ImageDataset,
    *,
    device: torch.device,
    compiled: bool | None,
    kept: Path,
    say: Callable[[str], None],
    report: Callable[[int, int], None],
) -> list[Row]:
    """Measure a target in all its modes on the same adaptations; return a row for each mode.

    Counts so far are in the file ``kept``, from which a stopped measurement goes on; it is removed
    at the end. Raises ``TrainingError`` when the weights do not fit the network or the file cannot
    be written, ``DataError`` when the data set is too small for such tasks.
    """
    target, manifest, adaptation = asked.target, asked.bundle.manifest, asked.adaptation
    settings = EvaluationSettings(
        way=target.way,
        shot=target.shot,
        query_count=target.query_count,
        task_count=asked.task_count,
        batch_norm_mode=target.modes[0],
        step_count=adaptation.step_count,
        batch_size=adaptation.batch_size,
        preconditioner=adaptation.preconditioner,
        head=adaptation.head,
        seed=TASK_SEED,
    )
    made_with = environment()
    tasks = prepare_tasks(dataset, settings)
    evaluator = Evaluator.of_bundle(asked.bundle, dataset, device, compiled=compiled, say=say)
    (solver,) = evaluator.solvers([settings], asked.task_count)
    described_row = {**described(asked), "data": dataset.name, "episodes_digest": tasks.digest}
    try:
        counts = count_right_answers(
            solver,
            tasks,
            target.modes,
            tasks_at_once=evaluator.tasks_at_once,
            kept=kept,
            identity=described_row,
            report=report,
        )
    except OSError as error:
        raise TrainingError(f"{kept} could not be written: {error.strerror}") from error
    rows: list[Row] = []
    for mode, correct in counts.correct.items():
        interval = accuracy_interval(np.asarray(correct), target.way * target.query_count)
        rows.append(
            {
                "row": target.row,
                "algorithm": manifest.provenance.algorithm,
                "batch_norm": mode.value,
                "accuracy": interval.mean,
                "ci95": interval.half_width,
                "ci_method": interval.method,
                "tasks": len(correct),
                "meta_iterations": manifest.provenance.meta_iterations,
                "seed": TASK_SEED,
                "device": made_with["gpu" if device.type == "cuda" else "cpu"],
                "commit": made_with["commit"],
                "paper": target.published.get(mode),
                "gate": target.gates.get(mode),
                **described_row,
                "diverged": counts.diverged[mode],
                "command": command_for(asked, mode),
            }
        )
    kept.unlink(missing_ok=True)
    return rows


def described(asked: Asked) -> dict[str, object]:
    """Return what makes a measured row checkable, equal for all modes and for a later run.

    ``meta_iterations_wanted`` is the recipe's number where the bundle's is another.
    """
    target, adaptation = asked.target, asked.adaptation
    provenance, inner = asked.bundle.manifest.provenance, asked.bundle.manifest.inner_loop
    wanted = _recipes_length(provenance.recipe)
    short = wanted is not None and wanted != provenance.meta_iterations
    return {
        "way": target.way,
        "shot": target.shot,
        "queries": target.query_count,
        "step_count": adaptation.step_count,
        "batch_size": adaptation.batch_size,
        "learning_rate": inner.learning_rate,
        "preconditioner": adaptation.preconditioner.value,
        "head": adaptation.head.value,
        "bundle": asked.bundle.manifest.name,
        "built_in": asked.builtin is not None,
        "bundle_digest": asked.bundle.digest,
        "weights_digest": weights_digest(asked.bundle),
        "recipe": provenance.recipe,
        "recipe_digest": provenance.recipe_digest,
        "training_seed": provenance.seed,
        **({"meta_iterations_wanted": wanted} if short else {}),
    }


def _recipes_length(recipe: str) -> int | None:
    """Return the meta-iterations of a shipped recipe; None for another."""
    if recipe not in list_recipes():
        return None
    return load_recipe(recipe).outer.meta_iterations


def command_for(asked: Asked, mode: BatchNormMode) -> str:
    """Return what measures a row again by itself; a bundle that does not ship is BUNDLE there."""
    target, adaptation = asked.target, asked.adaptation
    options: Mapping[str, object] = {
        "way": target.way,
        "shot": target.shot,
        "queries": target.query_count,
        "tasks": asked.task_count,
        "seed": TASK_SEED,
        "step-count": adaptation.step_count,
        "batch-size": adaptation.batch_size,
        "preconditioner": adaptation.preconditioner,
        "head": adaptation.head,
        "batch-norm-mode": mode,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["kshot", "evaluate", asked.builtin or "BUNDLE", *words])
