"""Accuracy and time over numbers of steps, preconditioners, heads, scopes and batch-norm modes."""

from collections.abc import Iterator, Sequence
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

__all__ = ["STEP_COUNTS", "Axes", "SweepRow", "Variant", "run_sweep"]

STEP_COUNTS = (0, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Axes:
    """What a sweep goes over; the numbers of steps grow."""

    step_counts: tuple[int, ...]
    preconditioners: tuple[Preconditioner, ...]
    heads: tuple[Head, ...]
    scopes: tuple[Scope, ...]
    modes: tuple[BatchNormMode, ...]

    @staticmethod
    def of(manifest: Manifest) -> "Axes":
        """Return all that a bundle allows, with its default scope."""
        return Axes(
            step_counts=STEP_COUNTS,
            preconditioners=manifest.inner_loop.preconditioners,
            heads=manifest.head.allowed,
            scopes=(manifest.scope.default,),
            modes=manifest.batch_norm.allowed,
        )


@dataclass(frozen=True)
class Variant:
    """One way to adapt; a baseline has what it does not leave open."""

    preconditioner: Preconditioner | None = None
    head: Head | None = None
    scope: Scope | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class SweepRow:
    """A variant's result in one batch-norm mode; its steps are ``result.step_count``.

    ``difference`` is the accuracy less that of the bundle's defaults on the same tasks, None where
    these are not among the rows.
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

    NIL comes first. The settings say what the axes do not. Raises what the evaluator raises.
    """
    variants = [Variant(baseline=Baseline.NIL), *_variants(axes)]
    compared = evaluator.compare(
        [
            replace(
                settings,
                preconditioner=variant.preconditioner,
                head=variant.head,
                scope=variant.scope,
                baseline=variant.baseline,
            )
            for variant in variants
        ],
        axes.modes,
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
    return _compared(rows, _defaults(evaluator.manifest, settings.batch_norm_mode))


def _variants(axes: Axes) -> Iterator[Variant]:
    for scope, head, preconditioner in product(axes.scopes, axes.heads, axes.preconditioners):
        yield Variant(preconditioner, head, scope)


def _defaults(manifest: Manifest, mode: BatchNormMode) -> tuple[Variant, BatchNormMode, int]:
    """Return what a bundle does when it is asked for nothing, but for the mode."""
    inner = manifest.inner_loop
    variant = Variant(inner.preconditioner, manifest.head.default, manifest.scope.default)
    return variant, mode, inner.step_count


def _compared(
    rows: Sequence[SweepRow], defaults: tuple[Variant, BatchNormMode, int]
) -> tuple[SweepRow, ...]:
    reference = next(
        (row for row in rows if (row.variant, row.mode, row.result.step_count) == defaults), None
    )
    if reference is None:
        return tuple(rows)
    accuracies = reference.result.task_accuracies
    return tuple(
        row
        if row is reference
        else replace(row, difference=paired_difference(row.result.task_accuracies, accuracies))
        for row in rows
    )
