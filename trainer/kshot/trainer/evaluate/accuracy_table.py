"""The accuracy table that a bundle carries."""

from collections.abc import Iterable, Mapping, Sequence

from kshot.bundle import EvaluationRow, Manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.evaluator import Evaluator, Report, part_of
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Table
from kshot.trainer.tasks.episodes import check_episodes

# The seed of every shipped recipe's table; a bundle does not record its table's seed.
TABLE_SEED = 0

# The tasks of each part of a table, and the growing numbers of steps after which they are scored.
Plan = Mapping[EvaluationSettings, Sequence[int]]


def plan_table(table: Table, manifest: Manifest) -> Plan:
    """Plan a recipe's table: its shots, each after the table's and the served number of steps."""
    way = manifest.training.way if table.way is None else table.way
    mode = manifest.batch_norm.default
    plan = {}
    for shot in table.shots:
        kind = way, shot, table.query_count, table.task_count
        served = manifest.default_step_count(way, way * shot)
        settings = EvaluationSettings(*kind, mode, seed=table.seed)
        plan[settings] = sorted({served, table.step_count})
    return plan


def plan_again(rows: Iterable[EvaluationRow], manifest: Manifest) -> Plan:
    """Plan the table of `rows` for a manifest with other defaults.

    The tasks are as many as in the rows and are drawn from `TABLE_SEED`; they are scored after the
    rows' numbers of steps and after the default number.
    """
    mode = manifest.batch_norm.default
    kinds: dict[tuple[int, int, int, int], set[int]] = {}
    for row in rows:
        kind = row.way, row.shot, row.query_count, row.task_count
        served = manifest.default_step_count(row.way, row.way * row.shot)
        kinds.setdefault(kind, {served}).add(row.step_count)
    return {
        EvaluationSettings(*kind, mode, seed=TABLE_SEED): sorted(step_counts)
        for kind, step_counts in kinds.items()
    }


def check_plan(plan: Plan, dataset: ImageDataset) -> None:
    """Raise `DataError` when the data set has too few classes or images for a table."""
    for settings in plan:
        check_episodes(dataset, settings.way, settings.shot, settings.query_count)


def measure_plan(
    plan: Plan, evaluator: Evaluator, report: Report = lambda _done, _total: None
) -> tuple[EvaluationRow, ...]:
    """Measure a table in every allowed mode; `report` hears of the tasks of the whole table."""
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
        rows += [
            EvaluationRow(
                way=settings.way,
                shot=settings.shot,
                query_count=settings.query_count,
                task_count=result.task_count,
                step_count=result.step_count,
                batch_norm_mode=mode,
                preconditioner=evaluator.manifest.inner_loop.preconditioner,
                accuracy=result.accuracy,
                ci95=result.ci95,
                ci_method=result.ci_method,
            )
            for results in along.values()
            for mode, result in results.items()
        ]
        before += settings.task_count
    return tuple(rows)
