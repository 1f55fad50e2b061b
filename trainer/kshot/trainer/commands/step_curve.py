"""Accuracy over inner steps, measured when a training ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kshot.bundle import Bundle, Head, Manifest
from kshot.trainer.commands.data_parts import read_own_part
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError, TrainingError, writing
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import STEP_COUNTS, Axes, run_sweep
from kshot.trainer.output.curve_file import PLOT_FILE as CURVES_PLOT
from kshot.trainer.output.plotting import check_matplotlib
from kshot.trainer.output.progress import Progress
from kshot.trainer.output.sweep_report import PLOT_FILE, SweepSubject, write_sweep
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import check_episodes

FOLDER = "steps"
TASKS = 30


def write_step_curve(
    recipe: Recipe,
    bundle: Bundle,
    data_folder: Path | None,
    out: Path,
    device: torch.device,
    *,
    compiled: bool | None,
    say: Callable[[str], None],
) -> None:
    """Measure a bundle after 0 to 50 steps; write plot, table and JSON to `out/steps`.

    The tasks are like those of the learning curves, of validation classes, or of test classes
    where there are not enough others. A plot that exists is left as it is. There is none of a
    bundle that cannot take steps, and without matplotlib. Raises `DataError` and `TrainingError`.
    """
    axes, folder = step_axes(bundle.manifest), out / FOLDER
    if axes is None or (folder / PLOT_FILE).exists():
        return
    try:
        check_matplotlib()
    except TrainingError as error:
        say(f"{error}; accuracy over steps is not measured")
        return
    evaluation, mode = recipe.evaluation, bundle.manifest.batch_norm.default
    kind = evaluation.way, evaluation.shot, evaluation.query_count, TASKS
    settings = EvaluationSettings(*kind, mode, seed=recipe.outer.seed)
    dataset = _measured_part(bundle, data_folder, settings)
    evaluator = Evaluator.of_bundle(bundle, dataset, device, compiled=compiled)
    with Progress("measuring steps", "tasks") as progress:
        rows = run_sweep(evaluator, settings, axes, report=progress.update)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    write_sweep(folder, SweepSubject(bundle, dataset, settings, where), rows)


def plots_in(out: Path) -> list[str]:
    """List the plots that a training has drawn in its folder."""
    plots = out / CURVES_PLOT, out / FOLDER / PLOT_FILE
    return [str(plot) for plot in plots if plot.exists()]


def step_axes(manifest: Manifest) -> Axes | None:
    """Return a bundle's defaults over the numbers of steps that it allows, None without any."""
    counts = tuple(count for count in STEP_COUNTS if count <= manifest.limits.max_step_count)
    if manifest.head.default is Head.RIDGE or len(counts) < 2:
        return None
    return replace(
        Axes.of(manifest),
        step_counts=counts,
        preconditioners=(manifest.inner_loop.preconditioner,),
        heads=(manifest.head.default,),
        batch_norm_modes=(manifest.batch_norm.default,),
    )


def _measured_part(
    bundle: Bundle, data_folder: Path | None, settings: EvaluationSettings
) -> ImageDataset:
    try:
        found = read_own_part(bundle, data_folder, "val")
        check_episodes(found, settings.way, settings.shot, settings.query_count)
    except DataError:
        return read_own_part(bundle, data_folder, "test")
    return found
