"""The table of accuracies that a bundle carries."""

from collections.abc import Callable
from itertools import product

from kshot.bundle import EvaluationRow, Manifest
from kshot.learner import Initialization
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import check_episodes
from kshot.trainer.evaluation import TASKS_AT_ONCE, evaluate
from kshot.trainer.pixels import DevicePixels
from kshot.trainer.recipe import Table
from kshot.trainer.task_solver import EvaluationSettings, build_solver


def check_table(table: Table, manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise ``DataError`` unless the data set has classes and images enough for the table."""
    for shot in table.shots:
        check_episodes(dataset, manifest.training.way, shot, table.query_count)


def measure_table(
    table: Table,
    manifest: Manifest,
    initialization: Initialization,
    dataset: ImageDataset,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[EvaluationRow, ...]:
    """Evaluate tasks of the trained way in every allowed mode, at the table's and the served steps.

    ``report`` hears how many tasks of how many are measured.
    """
    device = next(iter(initialization.parameters.values())).device
    pixels = DevicePixels.load(dataset, manifest.input, device)
    modes = manifest.batch_norm.allowed
    step_counts = sorted({manifest.inner_loop.step_count, table.step_count})
    total = table.task_count * len(table.shots) * len(step_counts)
    rows: list[EvaluationRow] = []
    for index, (shot, step_count) in enumerate(product(table.shots, step_counts)):
        settings = EvaluationSettings(
            way=manifest.training.way,
            shot=shot,
            query_count=table.query_count,
            task_count=table.task_count,
            batch_norm_mode=modes[0],
            step_count=step_count,
            seed=table.seed,
        )
        results = evaluate(
            build_solver(initialization, manifest, pixels, settings),
            dataset,
            settings,
            modes,
            tasks_at_once=TASKS_AT_ONCE[device.type],
            report=_counting_on(report, index * table.task_count, total),
        )
        rows += [
            EvaluationRow(
                way=settings.way,
                shot=shot,
                query_count=settings.query_count,
                task_count=result.task_count,
                step_count=step_count,
                batch_norm_mode=mode,
                preconditioner=manifest.inner_loop.preconditioner,
                accuracy=result.accuracy,
                ci95=result.ci95,
                ci_method=result.ci_method,
            )
            for mode, result in results.items()
        ]
    return tuple(rows)


def _counting_on(
    report: Callable[[int, int], None], before: int, total: int
) -> Callable[[int, int], None]:
    """Report a part's progress as the whole's."""
    return lambda done, _total: report(before + done, total)
