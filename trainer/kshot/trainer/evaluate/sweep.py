"""Sweeps: accuracy and time over step counts, preconditioners, heads, scopes and modes."""

from dataclasses import dataclass, replace
from itertools import product

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.evaluator import Evaluator, Report
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.statistics import Interval
from kshot.trainer.tasks.episode_file import EpisodeSet

STEP_COUNTS = (0, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Axes:
    """The values that a sweep combines; the numbers of steps grow."""

    step_counts: tuple[int, ...]
    preconditioners: tuple[Preconditioner, ...]
    heads: tuple[Head, ...]
    scopes: tuple[Scope, ...]
    batch_norm_modes: tuple[BatchNormMode, ...]

    @staticmethod
    def of(manifest: Manifest) -> "Axes":
        """Return all values that a bundle allows, with its default scope alone."""
        return Axes(
            step_counts=STEP_COUNTS,
            preconditioners=manifest.inner_loop.preconditioners,
            heads=manifest.head.allowed,
            scopes=(manifest.scope.default.of_steps,),
            batch_norm_modes=manifest.batch_norm.allowed,
        )


@dataclass(frozen=True)
class Variant:
    """One way to adapt. A baseline that decides a value has None for it."""

    preconditioner: Preconditioner | None = None
    head: Head | None = None
    scope: Scope | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class SweepRow:
    """A variant's result in one batch-norm mode, after `result.step_count` steps.

    `difference` is the accuracy minus that of the bundle's defaults on the same tasks; it is None
    when the defaults are not among the rows.
    """

    variant: Variant
    mode: BatchNormMode
    result: EvaluationResult
    difference: Interval | None = None


def run_sweep(
    evaluator: Evaluator,
    settings: EvaluationSettings,
    axes: Axes,
    *,
    episodes: EpisodeSet | None = None,
    report: Report = lambda _done, _total: None,
) -> tuple[SweepRow, ...]:
    """Evaluate every variant on the same tasks, adapting once for all step counts and modes.

    NIL comes first. The settings hold what the axes do not. Raises what the evaluator raises.
    """
    scopes = dict.fromkeys(scope.of_steps for scope in axes.scopes)
    combinations = product(scopes, axes.heads, axes.preconditioners)
    variants = [
        Variant(baseline=Baseline.NIL),
        *(Variant(preconditioner, head, scope) for scope, head, preconditioner in combinations),
    ]
    compared = evaluator.compare(
        [replace(settings, **vars(variant)) for variant in variants],
        axes.batch_norm_modes,
        step_counts=axes.step_counts,
        episodes=episodes,
        report=report,
    )
    rows = [
        SweepRow(variant, mode, result)
        for variant, along in zip(variants, compared, strict=True)
        for results in along.values()
        for mode, result in results.items()
    ]
    manifest = evaluator.manifest
    preconditioner, (way, shot) = manifest.inner_loop.preconditioner, (settings.way, settings.shot)
    defaults = Variant(preconditioner, manifest.head.default, manifest.scope.default.of_steps)
    wanted = defaults, settings.batch_norm_mode, manifest.default_step_count(way, way * shot)
    for reference in rows:
        if (reference.variant, reference.mode, reference.result.step_count) == wanted:
            return tuple(_compared(row, reference) for row in rows)
    return tuple(rows)


def _compared(row: SweepRow, reference: SweepRow) -> SweepRow:
    if row is reference:
        return row
    accuracies = row.result.task_accuracies, reference.result.task_accuracies
    return replace(row, difference=paired_difference(*accuracies))
