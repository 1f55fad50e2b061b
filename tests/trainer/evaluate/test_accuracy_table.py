from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import COMPUTED_MODES, Manifest, Preconditioner, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError, RecipeError
from kshot.trainer.evaluate.accuracy_table import (
    check_plan,
    measure_plan,
    plan_again,
    plan_table,
)
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Recipe

Recipes = Callable[..., Recipe]
Patterns = Callable[..., ImageDataset]
Initializations = Callable[[Manifest], Initialization]


@pytest.mark.usefixtures("small_bundle")
def test_evaluating_the_bundle_repeats_its_table(
    small_recipe: Recipes,
    patterns: Patterns,
    make_initialization: Initializations,
    tmp_path: Path,
) -> None:
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    reports: list[tuple[int, int]] = []

    rows = measure_plan(
        plan_table(recipe.evaluation.table, manifest),
        Evaluator(initialization, manifest, dataset),
        lambda done, total: reports.append((done, total)),
    )

    assert reports == [(done, 4) for done in range(1, 5)]
    assert [(row.shot, row.step_count) for row in rows[::3]] == [(1, 3), (1, 10), (5, 3), (5, 10)]
    assert {row.batch_norm_mode for row in rows} == set(COMPUTED_MODES)
    assert all((row.way, row.query_count, row.task_count) == (3, 1, 2) for row in rows)
    measured = replace(manifest, evaluation=rows)
    folder = pack_bundle(tmp_path, measured, initialization, recipe, dataset)
    bundle = load_bundle(folder)
    assert bundle.manifest.evaluation == rows
    last = rows[-1]
    settings = EvaluationSettings(3, 5, 1, 2, last.batch_norm_mode, step_count=10)
    evaluator = Evaluator.of_bundle(bundle, dataset, torch.device("cpu"))
    again = evaluator.evaluate(settings)[last.batch_norm_mode]
    assert (again.accuracy, again.ci95) == (last.accuracy, last.ci95)


def test_the_recipe_says_what_is_measured(
    small_recipe: Recipes, patterns: Patterns, make_initialization: Initializations
) -> None:
    """The served step count, 10, is measured once where it is the table's own."""
    recipe = small_recipe(
        *("evaluation.table.step_count=10", "evaluation.table.shots=[2]"),
        *("evaluation.table.query_count=3", "evaluation.table.task_count=4"),
    )
    table, dataset = recipe.evaluation.table, patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)

    rows = measure_plan(plan_table(table, manifest), Evaluator(initialization, manifest, dataset))
    other = measure_plan(
        plan_table(replace(table, seed=1), manifest), Evaluator(initialization, manifest, dataset)
    )

    described = [(row.shot, row.step_count, row.query_count, row.task_count) for row in rows]
    assert described == [(2, 10, 3, 4)] * 3
    assert [row.accuracy for row in rows] != [row.accuracy for row in other]


def test_a_table_may_have_its_own_way(
    small_recipe: Recipes, patterns: Patterns, make_initialization: Initializations
) -> None:
    recipe = small_recipe("evaluation.table.way=5", "evaluation.table.shots=[1]")
    table, dataset = recipe.evaluation.table, patterns()
    manifest = draft_manifest(recipe, dataset)

    rows = measure_plan(
        plan_table(table, manifest), Evaluator(make_initialization(manifest), manifest, dataset)
    )

    assert manifest.training.way == 3
    assert {row.way for row in rows} == {5}
    with pytest.raises(DataError, match="way: expected at most the 8 classes"):
        check_plan(plan_table(replace(table, way=9), manifest), dataset)
    with pytest.raises(RecipeError, match=r"evaluation.table.way: expected at most 50 .serving"):
        small_recipe("evaluation.table.way=51")


def test_a_table_needs_enough_images(small_recipe: Recipes, patterns: Patterns) -> None:
    recipe = small_recipe()
    table, manifest = recipe.evaluation.table, draft_manifest(recipe, patterns())
    check_plan(plan_table(table, manifest), patterns(class_count=3, image_count=6))

    with pytest.raises(DataError, match="5 support and 1 query"):
        check_plan(plan_table(table, manifest), patterns(image_count=5))
    with pytest.raises(DataError, match="way: expected at most the 2 classes"):
        check_plan(plan_table(table, manifest), patterns(class_count=2))


def test_a_table_is_measured_again(
    small_recipe: Recipes, patterns: Patterns, make_initialization: Initializations
) -> None:
    """Tasks, modes and numbers of steps stay; what the old defaults gave is measured the same."""
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    rows = measure_plan(
        plan_table(recipe.evaluation.table, manifest), Evaluator(initialization, manifest, dataset)
    )
    changed = replace(manifest, inner_loop=replace(manifest.inner_loop, step_count=2))
    reports: list[tuple[int, int]] = []

    again = measure_plan(
        plan_again(rows, changed),
        Evaluator(initialization, changed, dataset),
        lambda done, total: reports.append((done, total)),
    )

    assert reports == [(done, 4) for done in range(1, 5)]
    assert [(row.shot, row.step_count) for row in again[::3]] == [
        (shot, step_count) for shot in (1, 5) for step_count in (2, 3, 10)
    ]
    assert tuple(row for row in again if row.step_count != 2) == rows
    assert (
        measure_plan(plan_again(rows, manifest), Evaluator(initialization, manifest, dataset))
        == rows
    )
    assert (
        measure_plan(plan_again((), manifest), Evaluator(initialization, manifest, dataset)) == ()
    )
    fresh = replace(
        manifest,
        inner_loop=replace(manifest.inner_loop, preconditioner=Preconditioner.FRESH),
    )
    others = measure_plan(plan_again(rows, fresh), Evaluator(initialization, fresh, dataset))
    assert {row.preconditioner for row in others} == {Preconditioner.FRESH}


def test_a_table_again_needs_enough_images(
    small_recipe: Recipes, patterns: Patterns, make_initialization: Initializations
) -> None:
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    rows = measure_plan(
        plan_table(recipe.evaluation.table, manifest), Evaluator(initialization, manifest, dataset)
    )
    check_plan(plan_again(rows, manifest), patterns(class_count=3, image_count=6))

    with pytest.raises(DataError, match="5 support and 1 query"):
        check_plan(plan_again(rows, manifest), patterns(image_count=5))
