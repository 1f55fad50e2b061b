from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import BatchNormMode, Bundle, Head, Manifest, Preconditioner, Scope, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.evaluation import evaluate_bundle
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import Axes, SweepRow, Variant, run_sweep
from kshot.trainer.recipe.recipe import Recipe

CPU = torch.device("cpu")
MODES = (BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE)
SETTINGS = EvaluationSettings(3, 2, 2, 6, BatchNormMode.SUPPORT, seed=4)
AXES = Axes(
    step_counts=(0, 2, 10),
    preconditioners=(Preconditioner.CARRIED, Preconditioner.SGD),
    heads=(Head.TRAINED, Head.PROTOTYPE),
    scopes=(Scope.ALL, Scope.HEAD),
    modes=MODES,
)
Patterns = Callable[..., ImageDataset]


@pytest.fixture
def bundle(
    small_recipe: Callable[..., Recipe],
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
    small_bundle: None,  # noqa: ARG001 -- templates are names
    tmp_path: Path,
) -> Bundle:
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    return load_bundle(pack_bundle(tmp_path, manifest, initialization, recipe, dataset))


@pytest.fixture
def rows(bundle: Bundle, patterns: Patterns) -> tuple[SweepRow, ...]:
    return run_sweep(bundle, patterns(), SETTINGS, AXES, device=CPU)


def test_every_variant_is_measured_in_every_mode_at_every_number_of_steps(
    rows: tuple[SweepRow, ...],
) -> None:
    measured = {(row.variant, row.mode, row.result.step_count) for row in rows}

    assert len(rows) == len(measured) == 2 + 2 * 2 * 2 * 3 * 2
    nil = [row for row in rows if row.variant == Variant(baseline=Baseline.NIL)]
    assert [(row.mode, row.result.step_count) for row in nil] == [(mode, 0) for mode in MODES]
    assert len({row.result.episodes_digest for row in rows}) == 1
    assert all(row.result.task_count == 6 for row in rows)


def test_a_row_is_what_evaluating_alone_gives(
    bundle: Bundle, patterns: Patterns, rows: tuple[SweepRow, ...]
) -> None:
    for row in rows[::7]:
        variant = row.variant
        settings = replace(
            SETTINGS,
            batch_norm_mode=row.mode,
            step_count=row.result.step_count if variant.baseline is None else None,
            preconditioner=variant.preconditioner,
            head=variant.head,
            scope=variant.scope,
            baseline=variant.baseline,
        )
        alone = evaluate_bundle(bundle, patterns(), settings, device=CPU)
        assert replace(alone, ms_per_task=0) == replace(row.result, ms_per_task=0)


def test_rows_are_compared_with_the_bundles_defaults_on_the_same_tasks(
    bundle: Bundle, patterns: Patterns, rows: tuple[SweepRow, ...]
) -> None:
    (reference,) = (row for row in rows if row.difference is None)

    assert reference.variant == Variant(Preconditioner.CARRIED, Head.TRAINED, Scope.ALL)
    assert (reference.mode, reference.result.step_count) == (BatchNormMode.SUPPORT, 10)
    for row in rows:
        if row.difference is not None:
            wanted = row.result.accuracy - reference.result.accuracy
            assert row.difference.mean == pytest.approx(wanted)
    axes = replace(AXES, step_counts=(0,), heads=(Head.ZERO,))
    others = run_sweep(bundle, patterns(), SETTINGS, axes, device=CPU)
    assert {row.difference for row in others} == {None}


def test_progress_counts_the_tasks_of_all_variants(bundle: Bundle, patterns: Patterns) -> None:
    reports: list[tuple[int, int]] = []
    axes = replace(AXES, scopes=(Scope.ALL,), step_counts=(1,))
    run_sweep(
        bundle,
        patterns(),
        SETTINGS,
        axes,
        device=CPU,
        report=lambda done, total: reports.append((done, total)),
    )

    assert reports == [(done, 5 * 6) for done in range(1, 31)]


def test_the_axes_are_what_the_bundle_allows(bundle: Bundle) -> None:
    manifest = bundle.manifest
    axes = Axes.of(manifest)

    assert axes.step_counts == (0, 1, 2, 5, 10, 20, 50)
    assert axes.preconditioners == manifest.inner_loop.preconditioners
    assert (axes.heads, axes.modes) == (manifest.head.allowed, manifest.batch_norm.allowed)
    assert axes.scopes == (manifest.scope.default,)
