"""The accuracy table that a bundle carries."""

from collections.abc import Iterable, Mapping, Sequence

from kshot.bundle import EvaluationRow, Manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.evaluator import Evaluator, Report, ResultsAlong, part_of
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Table
from kshot.trainer.tasks.episodes import check_episodes

__all__ = ["TABLE_SEED", "check_rows", "check_table", "measure_again", "measure_table"]

# The seed of every shipped recipe's table; a bundle does not record its table's seed.
TABLE_SEED = 0

# The tasks of a part of a table, and the growing numbers of steps after which they are scored.
Plan = Mapping[EvaluationSettings, Sequence[int]]


def check_table(table: Table, manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise `DataError` when the data set has too few classes or images for the table."""
    _check(_plan_of_table(table, manifest), dataset)


def measure_table(
    table: Table, evaluator: Evaluator, report: Report = lambda _done, _total: None
) -> tuple[EvaluationRow, ...]:
    """Measure a recipe's table in every allowed mode, after the table's and the served steps.

    `report` hears of the tasks of the whole table.
    """
    return _measure(_plan_of_table(table, evaluator.manifest), evaluator, report)


def check_rows(rows: Sequence[EvaluationRow], manifest: Manifest, dataset: ImageDataset) -> None:
    """Raise `DataError` when the data set has too few classes or images for the rows' tasks."""
    _check(_plan_of_rows(rows, manifest), dataset)


def measure_again(
    rows: Sequence[EvaluationRow],
    evaluator: Evaluator,
    report: Report = lambda _done, _total: None,
) -> tuple[EvaluationRow, ...]:
    """Measure the table of `rows` again, with the defaults of the evaluator's manifest.

    The tasks are as many as in the rows and are drawn from `TABLE_SEED`; they are scored after the
    rows' numbers of steps and after the default number. `report` is as in `measure_table`.
    """
    return _measure(_plan_of_rows(rows, evaluator.manifest), evaluator, report)


def _plan_of_table(table: Table, manifest: Manifest) -> Plan:
    step_counts = sorted({manifest.inner_loop.step_count, table.step_count})
    way = manifest.training.way if table.way is None else table.way
    return {
        EvaluationSettings(
            way=way,
            shot=shot,
            query_count=table.query_count,
            task_count=table.task_count,
            batch_norm_mode=manifest.batch_norm.default,
            seed=table.seed,
        ): step_counts
        for shot in table.shots
    }


def _plan_of_rows(rows: Iterable[EvaluationRow], manifest: Manifest) -> Plan:
    kinds: dict[tuple[int, int, int, int], set[int]] = {}
    for row in rows:
        kind = row.way, row.shot, row.query_count, row.task_count
        kinds.setdefault(kind, {manifest.inner_loop.step_count}).add(row.step_count)
    return {
        EvaluationSettings(
            *kind, batch_norm_mode=manifest.batch_norm.default, seed=TABLE_SEED
        ): sorted(step_counts)
        for kind, step_counts in kinds.items()
    }


def _check(plan: Plan, dataset: ImageDataset) -> None:
    for settings in plan:
        check_episodes(dataset, settings.way, settings.shot, settings.query_count)


def _measure(plan: Plan, evaluator: Evaluator, report: Report) -> tuple[EvaluationRow, ...]:
    total, before = sum(settings.task_count for settings in plan), 0
    rows: list[EvaluationRow] = []
    for settings, step_counts in plan.items():
        (along,) = evaluator.compare(
            [settings],
            evaluator.manifest.batch_norm.allowed,
            step_counts=step_counts,
            planned_tasks=total,
            report=part_of(report, before, total),
        )
        rows += _rows(settings, evaluator.manifest, along)
        before += settings.task_count
    return tuple(rows)


def _rows(
    settings: EvaluationSettings, manifest: Manifest, along: ResultsAlong
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
        for results in along.values()
        for mode, result in results.items()
    ]
