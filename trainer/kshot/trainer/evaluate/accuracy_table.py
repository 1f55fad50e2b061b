"""The table of accuracies that a bundle carries."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

from kshot.bundle import BatchNormMode, EvaluationRow, Manifest
from kshot.learner import Initialization
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.compiled_solver import compiled_solver
from kshot.trainer.evaluate.evaluation import TASKS_AT_ONCE, evaluate, evaluate_along
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.solver import EvaluationSettings, build_solver
from kshot.trainer.evaluate.tasks import prepare_tasks
from kshot.trainer.recipe.recipe import Table
from kshot.trainer.tasks.episodes import check_episodes

# That of all shipped recipes' tables: a bundle does not keep its table's seed.
TABLE_SEED = 0


def check_table(table: Table, manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise ``DataError`` unless the data set has classes and images enough for the table."""
    for shot in table.shots:
        check_episodes(dataset, _way(table, manifest), shot, table.query_count)


def measure_table(
    table: Table,
    manifest: Manifest,
    initialization: Initialization,
    dataset: ImageDataset,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[EvaluationRow, ...]:
    """Evaluate tasks of the table's way in every allowed mode, at the table's and the served steps.

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
            way=_way(table, manifest),
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
        rows += _rows(settings, manifest, results)
    return tuple(rows)


def _way(table: Table, manifest: Manifest) -> int:
    return manifest.training.way if table.way is None else table.way


def check_rows(rows: Sequence[EvaluationRow], manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise ``DataError`` unless the data set has classes and images enough for a table again."""
    for settings in _settings_of(rows, manifest):
        check_episodes(dataset, settings.way, settings.shot, settings.query_count)


def measure_again(
    rows: Sequence[EvaluationRow],
    manifest: Manifest,
    initialization: Initialization,
    dataset: ImageDataset,
    *,
    compiled: bool | None = False,
    say: Callable[[str], None] = lambda _sentence: None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[EvaluationRow, ...]:
    """Measure a table again for a manifest whose defaults are others than those of ``rows``.

    It has the tasks and numbers of steps of the rows, and the default number of steps beside them;
    the tasks are those of ``TABLE_SEED``. ``compiled`` and ``say`` as in ``evaluate_bundle``,
    ``report`` as in ``measure_table``.
    """
    device = next(iter(initialization.parameters.values())).device
    pixels = DevicePixels.load(dataset, manifest.input, device)
    wanted = _settings_of(rows, manifest)
    total, before = sum(settings.task_count for settings in wanted), 0
    again: list[EvaluationRow] = []
    for settings, step_counts in wanted.items():
        solver = compiled_solver(
            build_solver(initialization, manifest, pixels, settings),
            manifest,
            step_count=total * step_counts[-1],
            tasks_at_once=TASKS_AT_ONCE[device.type],
            compiled=compiled,
            say=say,
        )
        results = evaluate_along(
            solver,
            prepare_tasks(dataset, settings),
            step_counts,
            manifest.batch_norm.allowed,
            tasks_at_once=TASKS_AT_ONCE[device.type],
            report=_counting_on(report, before, total),
        )
        for of_modes in results.values():
            again += _rows(settings, manifest, of_modes)
        before += settings.task_count
    return tuple(again)


def _settings_of(
    rows: Sequence[EvaluationRow], manifest: Manifest
) -> dict[EvaluationSettings, list[int]]:
    """Return what each kind of rows measured, by the most steps, and all its numbers of steps."""
    kinds: dict[tuple[int, int, int, int], set[int]] = {}
    for row in rows:
        kind = row.way, row.shot, row.query_count, row.task_count
        kinds.setdefault(kind, {manifest.inner_loop.step_count}).add(row.step_count)
    return {
        EvaluationSettings(
            *kind,
            batch_norm_mode=manifest.batch_norm.default,
            step_count=max(step_counts),
            seed=TABLE_SEED,
        ): sorted(step_counts)
        for kind, step_counts in kinds.items()
    }


def _rows(
    settings: EvaluationSettings,
    manifest: Manifest,
    results: Mapping[BatchNormMode, EvaluationResult],
) -> list[EvaluationRow]:
    return [
        EvaluationRow(
            way=settings.way,
            shot=settings.shot,
            query_count=settings.query_count,
            task_count=result.task_count,
            step_count=result.step_count,
            batch_norm_mode=mode,
            preconditioner=manifest.inner_loop.preconditioner,
            accuracy=result.accuracy,
            ci95=result.ci95,
            ci_method=result.ci_method,
        )
        for mode, result in results.items()
    ]


def _counting_on(
    report: Callable[[int, int], None], before: int, total: int
) -> Callable[[int, int], None]:
    """Report a part's progress as the whole's."""
    return lambda done, _total: report(before + done, total)
