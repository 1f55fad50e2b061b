"""Accuracy and time over numbers of steps, preconditioners, heads, scopes and batch-norm modes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from kshot.bundle import BatchNormMode, Bundle, Head, Manifest, Preconditioner, Scope
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.evaluate.baselines import Baseline, NilSolver
from kshot.trainer.evaluate.compiled_solver import compiled_alike
from kshot.trainer.evaluate.evaluation import TASKS_AT_ONCE, Measurement, initialization_of
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.solver import build_solver
from kshot.trainer.evaluate.tasks import EvaluationTasks, prepare_tasks
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
    bundle: Bundle,
    dataset: ImageDataset,
    settings: EvaluationSettings,
    axes: Axes,
    *,
    device: torch.device,
    episodes: EpisodeSet | None = None,
    compiled: bool | None = False,
    say: Callable[[str], None] = lambda _sentence: None,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[SweepRow, ...]:
    """Evaluate every variant on the same tasks, adapting once for all numbers of steps and modes.

    NIL comes first. The settings say what the axes do not. ``compiled``, ``say`` and ``report`` as
    in ``evaluate_bundle``; the steps of all variants are compiled, or none. Raises
    ``TrainingError`` when the weights do not fit the network or a step was to be compiled and
    cannot be, ``DataError`` when the data set does not fit.
    """
    manifest = bundle.manifest
    initialization = initialization_of(bundle, device)
    pixels = DevicePixels.load(dataset, manifest.input, device)
    tasks = prepare_tasks(dataset, settings, episodes)
    tasks_at_once = TASKS_AT_ONCE[device.type]
    nil, variants = Variant(baseline=Baseline.NIL), list(_variants(axes))
    plain = [
        build_solver(
            initialization,
            manifest,
            pixels,
            replace(
                settings,
                step_count=axes.step_counts[-1],
                preconditioner=variant.preconditioner,
                head=variant.head,
                scope=variant.scope,
            ),
        )
        for variant in variants
    ]
    solvers = compiled_alike(
        plain,
        manifest,
        step_count=len(tasks.episodes) * axes.step_counts[-1] * len(variants),
        tasks_at_once=tasks_at_once,
        compiled=compiled,
        say=say,
    )
    measurements = [
        Measurement(NilSolver(initialization, pixels, settings.way), [0], axes.modes),
        *(Measurement(solver, axes.step_counts, axes.modes) for solver in solvers),
    ]
    _solve_in_turns(measurements, tasks, tasks_at_once, report)
    rows = [
        SweepRow(variant, mode, result)
        for variant, measurement in zip([nil, *variants], measurements, strict=True)
        for of_modes in measurement.results(tasks.digest).values()
        for mode, result in of_modes.items()
    ]
    return _compared(rows, _defaults(manifest, settings.batch_norm_mode))


def _solve_in_turns(
    measurements: Sequence[Measurement],
    tasks: EvaluationTasks,
    tasks_at_once: int,
    report: Callable[[int, int], None],
) -> None:
    """Let every variant solve some tasks, then the next: a machine's drift meets all alike."""
    variant_count, task_count = len(measurements), len(tasks.episodes)
    for first in range(0, task_count, tasks_at_once):
        some = tasks.part(first, first + tasks_at_once)
        for number, measurement in enumerate(measurements, start=1):
            measurement.solve(some, first)
            done = first * variant_count + number * len(some.episodes)
            report(done, variant_count * task_count)


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
