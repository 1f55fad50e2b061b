"""The plot of `kshot bench adapt`: accuracy over steps and over milliseconds, on handwriting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kshot.bench.report import say
from kshot.bench.speed.adapt_contenders import kshot_loop
from kshot.bench.speed.timed_task import TimedTask
from kshot.bench.speed.timing import interleave
from kshot.bundle import Bundle
from kshot.learner import InnerStep, cycling_indices
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_COUNTS = (1, 2, 5, 10, 20, 50)
TASK_COUNT = 100
MAX_QUERIES = 10


@dataclass(frozen=True)
class AccuracyPoint:
    """Accuracy and the half width of its 95 % interval in 0..1, and an adaptation's median time."""

    step_count: int
    accuracy: float
    ci95: float
    adapt_ms: float


def handwriting(bundle: Bundle, data_folder: Path | None) -> ImageDataset:
    """Read the bundle's test classes, or scikit-learn's digits without a data folder.

    Raises `DataError` when the folder does not hold the bundle's data set.
    """
    input_spec = bundle.manifest.input
    if data_folder is None:
        say("no data folder is named: accuracy is measured on scikit-learn's digits")
        digits = Data("digits", "all", rotations=False)
        return read_dataset(digits, Path(), "test", input_spec=input_spec)
    data = data_of(bundle.manifest.provenance)
    return read_dataset(data, data_folder, "test", input_spec=input_spec)


def measure_accuracy(
    task: TimedTask, step: InnerStep, dataset: ImageDataset, rounds: int
) -> list[AccuracyPoint]:
    """Measure kshot's accuracy on the same tasks of a data set at each number of steps.

    The milliseconds are those of the given task and inner step. Raises `DataError` when the data
    set is too small for such tasks or of another shape.
    """
    size = task.size
    smallest = int(dataset.class_offsets.diff().min())
    settings = EvaluationSettings(
        way=size.way,
        shot=size.shot,
        query_count=max(1, min(MAX_QUERIES, smallest - size.shot)),
        task_count=TASK_COUNT,
        batch_norm_mode=task.manifest.batch_norm.default,
        batch_size=size.batch_size,
    )
    evaluator = Evaluator(task.initialization, task.manifest, dataset)
    milliseconds = _adapt_ms(task, step, rounds)
    say(f"measuring accuracy on {dataset.name}")
    mode = settings.batch_norm_mode
    (along,) = evaluator.compare([settings], [mode], step_counts=STEP_COUNTS)
    return [
        AccuracyPoint(
            step_count, along[step_count][mode].accuracy, along[step_count][mode].ci95, adapt_ms
        )
        for step_count, adapt_ms in milliseconds.items()
    ]


def draw_accuracy(figure: Figure, points: list[AccuracyPoint], title: str) -> None:
    """Draw accuracy with its interval over steps on the left, over milliseconds on the right."""
    accuracies = [100 * point.accuracy for point in points]
    errors = [100 * point.ci95 for point in points]
    steps, milliseconds = figure.subplots(1, 2, sharey=True)
    for axes, label, values in (
        (steps, "steps", [float(point.step_count) for point in points]),
        (milliseconds, "milliseconds of one adaptation", [point.adapt_ms for point in points]),
    ):
        axes.errorbar(values, accuracies, yerr=errors, marker="o", capsize=3)
        axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:.3g}" for value in values])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    steps.set_ylabel("accuracy, %")
    figure.suptitle(title)


def _adapt_ms(task: TimedTask, step: InnerStep, rounds: int) -> dict[int, float]:
    """Return the median milliseconds of an adaptation by its number of steps, interleaved."""
    loops = {}
    for step_count in STEP_COUNTS:
        batches = cycling_indices(len(task.classes), task.size.batch_size, step_count, seed=0).to(
            task.device
        )
        size = replace(task.size, step_count=step_count)
        loops[step_count] = kshot_loop(replace(task, size=size, batches=batches), step)
    samples = interleave(loops, rounds)
    return {step_count: median(values) for step_count, values in samples.items()}
