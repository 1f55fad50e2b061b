from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from kshot.trainer.errors import RecipeError
from kshot.trainer.experiment import arms_of
from kshot.trainer.experiment_files import list_experiments, load_experiment, parse_experiment
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import recipe_digest


def figure3() -> str:
    return (files("kshot.trainer") / "experiments" / "figure3.toml").read_text()


def test_the_paper_s_figures_and_the_sine_waves_are_shipped() -> None:
    assert list_experiments() == ("best", "figure3", "figure4", "preconditioners", "sine")


def test_the_arms_of_best_see_as_many_images_and_end_as_the_recipe() -> None:
    counts = {}
    for arm in arms_of(load_experiment("best").experiment):
        recipe = load_image_recipe(f"best-{arm.name}")
        task, inner = recipe.task, recipe.inner
        of_task = inner.batch_size * inner.step_count
        if recipe.outer.algorithm == "fomaml":
            of_task = task.way * task.shot
        counts[arm.name] = of_task * recipe.outer.meta_batch_size

    assert set(counts.values()) == {240, 250}
    arm, recipe = load_image_recipe("best-ways-60"), load_image_recipe("omniglot-best")
    for part in ("data", "input", "network", "batch_norm", "task", "inner"):
        assert getattr(arm, part) == getattr(recipe, part)
    assert replace(arm.outer, meta_iterations=recipe.outer.meta_iterations) == recipe.outer


@pytest.mark.parametrize(
    ("arm", "algorithm", "step_count", "meta_step_size"),
    [
        ("g1", "reptile", 1, 0.25),
        ("g1-g2", "reptile", 2, 0.25),
        ("half-g1-g2", "reptile", 2, 0.125),
        ("g2", "fomaml", 2, 0.25),
        ("g1-g2-g3", "reptile", 3, 0.25),
        ("third-g1-g2-g3", "reptile", 3, 0.08325),
        ("g3", "fomaml", 3, 0.25),
        ("g1-g2-g3-g4", "reptile", 4, 0.25),
        ("fourth-g1-g2-g3-g4", "reptile", 4, 0.0625),
        ("g4", "fomaml", 4, 0.25),
    ],
)
def test_figure3_has_the_ten_curves_of_the_authors_commands(
    arm: str, algorithm: str, step_count: int, meta_step_size: float
) -> None:
    recipe = load_image_recipe(f"figure3-{arm}")

    inner, outer, evaluation = recipe.inner, recipe.outer, recipe.evaluation
    assert (outer.algorithm, inner.step_count, outer.meta_step_size) == (
        algorithm,
        step_count,
        meta_step_size,
    )
    assert recipe.task.way * recipe.task.shot == inner.batch_size * step_count  # disjoint batches
    assert (inner.preconditioner, inner.learning_rate, inner.batch_size) == ("sgd", 0.003, 25)
    assert (outer.meta_iterations, outer.meta_batch_size, outer.meta_step_size_final) == (
        40000,
        1,
        0,
    )
    assert (evaluation.way, evaluation.shot) == (5, 5)
    assert (evaluation.batch_size, evaluation.step_count) == (25, 5)


def test_figure4_varies_one_thing_in_each_panel() -> None:
    file = load_experiment("figure4")
    recipes = {
        arm.name: load_image_recipe(f"figure4-{arm.name}") for arm in arms_of(file.experiment)
    }

    assert [len(panel.arms) for panel in file.experiment.panels] == [5, 5, 3]
    for name, recipe in recipes.items():
        inner, outer, task = recipe.inner, recipe.outer, recipe.task
        assert task.way * task.shot == 100
        assert task.tail_shot == (5 if "separate" in name else 0)
        assert outer.algorithm == ("reptile" if "reptile" in name else "fomaml")
        assert inner.sampling == ("replacement" if "replacement" in name else "cycling")
        assert inner.batch_size == 25 or not name.startswith("steps")
        assert inner.step_count == 4 or name.startswith("steps")
        assert outer.meta_step_size == 0.25 or name.startswith("outer")


def test_an_arm_is_a_recipe_like_any_other() -> None:
    name = "sine-joint"

    assert name in list_recipes()
    recipe = load_recipe(name, ["outer.seed=7"])
    assert recipe.name == name
    assert recipe.outer.seed == 7
    assert load_recipe(name).outer.seed == 0  # an override stays with the recipe it was set in


def test_the_sine_experiment_trains_the_sine_recipe() -> None:
    arm, recipe = load_recipe("sine-reptile"), load_recipe("sine")

    assert (arm.inner, arm.outer, arm.task, arm.network) == (
        recipe.inner,
        recipe.outer,
        recipe.task,
        recipe.network,
    )


def test_arms_differ_in_their_digests() -> None:
    names = [name for name in list_recipes() if name.startswith("figure4-steps")]

    assert len({recipe_digest(load_recipe(name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("[final]", "[last]", "experiment x.toml: last: unknown key", id="key"),
        pytest.param(
            "[recipe.inner]", "[recipe.inside]", "recipe figure3-g1.*setting inner", id="recipe"
        ),
        pytest.param('"task.shot=5"', '"task.shots=5"', "task.shots", id="setting"),
        pytest.param(
            "[recipe]\n", '[recipe]\nname = "a"\n', "recipe.name: expected no such key", id="name"
        ),
        pytest.param("[final]", "[final", "experiment x.toml is not TOML", id="TOML"),
        pytest.param(
            'lower = "g1"\n', 'lower = "g9"\n', "expected one of: g1, .* got g9", id="arm"
        ),
    ],
)
def test_a_mistake_in_an_experiment_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_experiment(figure3().replace(old, new).encode(), "x.toml")


def test_an_experiment_without_a_recipe_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"experiment x\.toml: recipe: expected the recipe .* got no table"
    ):
        parse_experiment(b'name = "x"', "x.toml")


def test_an_unknown_experiment_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"wanted one of: best, figure3, .*; or a path"):
        load_experiment("figure5")
    with pytest.raises(RecipeError, match=r"cannot read experiment .*none\.toml: No such file"):
        load_experiment(str(tmp_path / "none.toml"))
