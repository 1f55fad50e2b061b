from collections.abc import Callable
from dataclasses import replace

import pytest

from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Scope, ScopePolicy
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.evaluate.sweep import Axes, SweepRow, Variant, run_sweep
from kshot.trainer.recipe.recipe import Recipe

MODES = (BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE)
SETTINGS = EvaluationSettings(3, 2, 2, 6, BatchNormMode.SUPPORT, seed=4)
AXES = Axes(
    step_counts=(0, 2, 10),
    preconditioners=(Preconditioner.CARRIED, Preconditioner.SGD),
    heads=(Head.TRAINED, Head.PROTOTYPE),
    scopes=(Scope.ALL, Scope.HEAD),
    batch_norm_modes=MODES,
)
Patterns = Callable[..., ImageDataset]


@pytest.fixture(scope="module")
def evaluator(
    small_recipe: Callable[..., Recipe],
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
) -> Evaluator:
    manifest = draft_manifest(small_recipe(), patterns())
    return Evaluator(make_initialization(manifest), manifest, patterns())


@pytest.fixture(scope="module")
def rows(evaluator: Evaluator) -> tuple[SweepRow, ...]:
    return run_sweep(evaluator, SETTINGS, AXES)


def test_every_variant_is_measured(
    rows: tuple[SweepRow, ...],
) -> None:
    measured = {(row.variant, row.mode, row.result.step_count) for row in rows}

    assert len(rows) == len(measured) == 2 + 2 * 2 * 2 * 3 * 2
    nil = [row for row in rows if row.variant == Variant(baseline=Baseline.NIL)]
    assert [(row.mode, row.result.step_count) for row in nil] == [(mode, 0) for mode in MODES]
    assert len({row.result.episodes_digest for row in rows}) == 1
    assert all(row.result.task_count == 6 for row in rows)


def test_a_row_equals_an_evaluation_alone(evaluator: Evaluator, rows: tuple[SweepRow, ...]) -> None:
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
        alone = evaluator.evaluate(settings)[row.mode]
        assert replace(alone, ms_per_task=0) == replace(row.result, ms_per_task=0)


def test_rows_are_compared_with_the_defaults(
    evaluator: Evaluator, rows: tuple[SweepRow, ...]
) -> None:
    (reference,) = (row for row in rows if row.difference is None)

    assert reference.variant == Variant(Preconditioner.CARRIED, Head.TRAINED, Scope.ALL)
    assert (reference.mode, reference.result.step_count) == (BatchNormMode.SUPPORT, 10)
    for row in rows:
        if row.difference is not None:
            wanted = row.result.accuracy - reference.result.accuracy
            assert row.difference.mean == pytest.approx(wanted)
    axes = replace(AXES, step_counts=(0,), heads=(Head.ZERO,))
    others = run_sweep(evaluator, SETTINGS, axes)
    assert {row.difference for row in others} == {None}


def test_progress_counts_the_tasks_of_all_variants(evaluator: Evaluator) -> None:
    reports: list[tuple[int, int]] = []
    axes = replace(AXES, scopes=(Scope.ALL,), step_counts=(1,))
    run_sweep(
        evaluator,
        SETTINGS,
        axes,
        report=lambda done, total: reports.append((done, total)),
    )

    assert reports == [(done, 5 * 6) for done in range(1, 31)]


def test_scope_auto_is_measured_as_head(
    evaluator: Evaluator, rows: tuple[SweepRow, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the server adapts tails; the defaults are found among the rows all the same."""
    policy = ScopePolicy(Scope.AUTO, (Scope.AUTO, Scope.HEAD))
    monkeypatch.setattr(evaluator, "manifest", replace(evaluator.manifest, scope=policy))
    axes = replace(AXES, scopes=(Scope.AUTO, Scope.HEAD), heads=(Head.TRAINED,), step_counts=(10,))

    found = run_sweep(evaluator, SETTINGS, axes)

    wanted = [row for row in rows if row.variant.scope is Scope.HEAD]
    wanted = [
        row for row in wanted if (row.variant.head, row.result.step_count) == (axes.heads[0], 10)
    ]
    assert [row.variant for row in found[2:]] == [row.variant for row in wanted]
    assert [replace(row.result, ms_per_task=0) for row in found[2:]] == [
        replace(row.result, ms_per_task=0) for row in wanted
    ]
    assert [row.difference is None for row in found] == [False, False, True, False, False, False]
    assert Axes.of(evaluator.manifest).scopes == (Scope.HEAD,)
    automatic = evaluator.evaluate(replace(SETTINGS, scope=Scope.AUTO, step_count=10))
    assert automatic[BatchNormMode.SUPPORT].correct_counts == wanted[0].result.correct_counts


def test_the_axes_are_what_the_bundle_allows(evaluator: Evaluator) -> None:
    manifest = evaluator.manifest
    axes = Axes.of(manifest)

    assert axes.step_counts == (0, 1, 2, 5, 10, 20, 50)
    assert axes.preconditioners == manifest.inner_loop.preconditioners
    assert axes.heads == manifest.head.allowed
    assert axes.batch_norm_modes == manifest.batch_norm.allowed
    assert axes.scopes == (manifest.scope.default,)
