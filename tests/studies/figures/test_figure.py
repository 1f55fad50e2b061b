"""The arms of the five scripts, and the trainings that they make."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from kshot.trainer.recipe.files import load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import Recipe, recipe_digest
from studies.figures import best, figure3, figure4, sine
from studies.figures.figure import START, ZERO, Figure, RunSettings, plan

Settings = Callable[..., RunSettings]
ROOT = Path(__file__).parents[3]
NAMES = ("best", "figure3", "figure4", "preconditioners", "sine")


def figure(name: str) -> Figure:
    found = import_module(f"studies.figures.{name}").FIGURE
    assert isinstance(found, Figure)
    return found


def image_recipes(of: Figure) -> dict[str, Recipe]:
    recipes = {arm.name: of.recipe(arm) for arm in of.arms}
    return {name: recipe for name, recipe in recipes.items() if isinstance(recipe, Recipe)}


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("best", 9, "6face81f29cf85df6ef91c5f16a0caae9fccff9e4524a74a3437a069dce22253"),
        ("figure3", 10, "37efc879d4327b71a9ea39f7745afbaf0f83af63c38d77bb97d9b9af56b1465f"),
        ("figure4", 65, "c7dbdf690ad12a617722c448b9a312e5bf5d3be643764d512646b0eaa1e8849d"),
        ("preconditioners", 4, "a0138837456a6525071a49520152d8d1fea5515c73bb9912c256570322d71643"),
        ("sine", 4, "0965b79536a18db94ee8f73ddb97c1785a5d4087063803b553f60c3d4fc0099e"),
    ],
)
def test_arms_keep_their_digests(name: str, count: int, digest: str) -> None:
    """Checkpoints and results refer to recipes by their digests."""
    of = figure(name)
    recipes = {arm.name: of.recipe(arm) for arm in of.arms}

    lines = "".join(f"{name} {recipe_digest(recipe)}\n" for name, recipe in recipes.items())
    assert len(recipes) == len(of.arms) == count
    assert hashlib.sha256(lines.encode()).hexdigest() == digest
    assert all(recipe.name == f"{name}-{arm}" for arm, recipe in recipes.items())


@pytest.mark.parametrize("name", NAMES)
def test_panels_and_claims_name_arms(name: str) -> None:
    of = figure(name)
    lines, arms = {arm.line for arm in of.arms}, {arm.name for arm in of.arms}

    begins = {begin for panel in of.panels for begin in panel.lines}
    assert all(any(line.startswith(begin) for line in lines) for begin in begins)
    assert all({claim.lower, claim.higher} <= arms | {START, ZERO} for claim in of.claims)
    assert not arms & {START, ZERO}


def test_best_arms_see_as_many_images() -> None:
    recipes = image_recipes(best.FIGURE)
    counts = set()
    for recipe in recipes.values():
        task, inner = recipe.task, recipe.inner
        of_task = inner.batch_size * inner.step_count
        if recipe.outer.algorithm == "fomaml":
            of_task = task.way * task.shot
        counts.add(of_task * recipe.outer.meta_batch_size)

    assert counts == {240, 250}
    arm, shipped = recipes["ways-60"], load_image_recipe("omniglot-best")
    for part in ("data", "input", "network", "batch_norm", "task", "inner"):
        assert getattr(arm, part) == getattr(shipped, part)
    assert replace(arm.outer, meta_iterations=shipped.outer.meta_iterations) == shipped.outer


def test_figure3_follows_the_authors_commands() -> None:
    recipes = image_recipes(figure3.FIGURE)

    assert {
        name: (recipe.outer.algorithm, recipe.inner.step_count, recipe.outer.meta_step_size)
        for name, recipe in recipes.items()
    } == {
        "g1": ("reptile", 1, 0.25),
        "g1-g2": ("reptile", 2, 0.25),
        "half-g1-g2": ("reptile", 2, 0.125),
        "g2": ("fomaml", 2, 0.25),
        "g1-g2-g3": ("reptile", 3, 0.25),
        "third-g1-g2-g3": ("reptile", 3, 0.08325),
        "g3": ("fomaml", 3, 0.25),
        "g1-g2-g3-g4": ("reptile", 4, 0.25),
        "fourth-g1-g2-g3-g4": ("reptile", 4, 0.0625),
        "g4": ("fomaml", 4, 0.25),
    }
    for recipe in recipes.values():
        inner, outer, evaluation = recipe.inner, recipe.outer, recipe.evaluation
        assert recipe.task.way * recipe.task.shot == inner.batch_size * inner.step_count
        assert (inner.preconditioner, inner.learning_rate, inner.batch_size) == ("sgd", 0.003, 25)
        assert (outer.meta_iterations, outer.meta_batch_size) == (40000, 1)
        assert outer.meta_step_size_final == 0
        assert (evaluation.way, evaluation.shot) == (5, 5)
        assert (evaluation.batch_size, evaluation.step_count) == (25, 5)


def test_figure4_varies_one_thing_per_panel() -> None:
    lines = {arm.line for arm in figure4.FIGURE.arms}
    shown = [panel.lines for panel in figure4.FIGURE.panels]
    assert [sum(line.startswith(begins) for line in lines) for begins in shown] == [5, 5, 3]
    for name, recipe in image_recipes(figure4.FIGURE).items():
        inner, outer, task = recipe.inner, recipe.outer, recipe.task
        assert task.way * task.shot == 100
        assert task.tail_shot == (5 if "separate" in name else 0)
        assert outer.algorithm == ("reptile" if "reptile" in name else "fomaml")
        assert inner.sampling == ("replacement" if "replacement" in name else "cycling")
        assert inner.batch_size == 25 or not name.startswith("steps")
        assert inner.step_count == 4 or name.startswith("steps")
        assert outer.meta_step_size == 0.25 or name.startswith("outer")


def test_sine_trains_the_shipped_recipe() -> None:
    arm, shipped = sine.FIGURE.recipe(sine.FIGURE.arms[0]), load_recipe("sine")

    for part in ("inner", "outer", "task", "network"):
        assert getattr(arm, part) == getattr(shipped, part)


def test_settings_stay_with_their_recipe() -> None:
    arm = sine.FIGURE.arms[1]

    assert sine.FIGURE.recipe(arm, ["outer.seed=7"]).outer.seed == 7
    assert sine.FIGURE.recipe(arm).outer.seed == 0


def test_scales_seeds_and_settings_reach_every_arm(settings: Settings) -> None:
    planned = plan(figure3.FIGURE, settings(seed_count=2, step_scale=2.0, scale=0.01))

    assert [(arm.name, [job.recipe.outer.seed for job in jobs]) for arm, jobs in planned] == [
        (name, [0, 1]) for name in ("start", "g1", "g2")
    ]
    for recipe in (job.recipe for _, jobs in planned for job in jobs):
        assert recipe.outer.meta_iterations == 400
        assert recipe.outer.meta_step_size == 0.5
        assert recipe.evaluation.interval == 400
        assert recipe.network.arguments["filters"] == 4


def test_equal_arms_share_a_training(settings: Settings) -> None:
    planned = plan(
        figure4.FIGURE, settings(arms=("steps-reptile-4", "batch-reptile", "outer-reptile"))
    )

    folders = {arm.name: jobs[0].folder for arm, jobs in planned}
    assert folders["batch-reptile-25"] == folders["steps-reptile-4"]
    assert folders["outer-reptile-0-25"] == folders["batch-reptile-100"]
    assert len(set(folders.values())) == len(folders) - 2
    alone = plan(figure4.FIGURE, settings(arms=("batch-reptile-25",)))
    assert alone == [item for item in planned if item[0].name in ("start", "batch-reptile-25")]


def test_script_runs_from_anywhere(tmp_path: Path) -> None:
    script = str(ROOT / "studies" / "figures" / "sine.py")

    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Sine waves from ten points" in done.stdout
    assert "--arms NAME,..." in done.stdout
