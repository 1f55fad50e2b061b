"""The numbers of the shipped recipes against those of the papers and their code."""

from dataclasses import replace
from importlib.resources import files

import pytest

from kshot.bundle import Head
from kshot.trainer.loop.algorithms import algorithm_of
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import Recipe

SHIPPED = sorted(
    entry.name.removesuffix(".toml")
    for entry in (files("kshot.trainer.recipe") / "shipped").iterdir()
    if entry.name.endswith(".toml")
)
ON_IMAGES = [name for name in SHIPPED if isinstance(load_recipe(name), Recipe)]
MAML = {
    # name without the algorithm: ways, shots, tail, meta-batch, rate, updates, updates in the test
    "omniglot-5way": (5, 1, 1, 32, 0.4, 1, 3),
    "omniglot-5way-5shot": (5, 5, 5, 32, 0.4, 1, 3),
    "omniglot-20way": (20, 1, 1, 16, 0.1, 5, 5),
    "mini-imagenet-5way": (5, 1, 15, 4, 0.01, 5, 10),
    "mini-imagenet-5way-5shot": (5, 5, 15, 4, 0.01, 5, 10),
}


def test_the_recipes_that_are_there() -> None:
    rows = {f"{name}-{algorithm}" for name in MAML for algorithm in ("fomaml", "maml")}
    reptile = {"omniglot-5way", "omniglot-20way", "mini-imagenet-5way", "cifar-fs-5way", "sine"}
    baselines = {"omniglot-5way-joint", "omniglot-pretraining"}
    ablations = {"omniglot-5way-sgd", "omniglot-5way-fresh"}

    best = {"omniglot-best", "cifar-fs-best", "drawings"}
    assert set(SHIPPED) == rows | reptile | baselines | ablations | best
    assert set(SHIPPED) <= set(list_recipes())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    text = (files("kshot.trainer.recipe") / "shipped" / f"{name}.toml").read_text()
    header = text[: text.index("\nname = ")]

    assert all(line.startswith("# ") for line in header.splitlines())
    assert "arXiv" in header or "ICLR" in header or name == "omniglot-pretraining"
    assert load_recipe(name).cost.endswith("on one CPU core")


@pytest.mark.parametrize(
    ("name", "way", "shot", "batch_size", "step_count", "learning_rate", "meta_iterations"),
    [
        ("omniglot-5way", 5, 10, 10, 5, 1e-3, 100_000),
        ("omniglot-20way", 20, 10, 20, 10, 5e-4, 200_000),
        ("mini-imagenet-5way", 5, 15, 10, 8, 1e-3, 100_000),
        ("cifar-fs-5way", 5, 15, 10, 8, 1e-3, 100_000),
    ],
)
def test_reptile_has_the_numbers_of_the_paper(
    name: str,
    way: int,
    shot: int,
    batch_size: int,
    step_count: int,
    learning_rate: float,
    meta_iterations: int,
) -> None:
    """arXiv 1803.02999v3, appendix A, tables 3 and 4; CIFAR-FS has mini-ImageNet's."""
    recipe = load_image_recipe(name)
    task, inner, outer, evaluation = recipe.task, recipe.inner, recipe.outer, recipe.evaluation

    assert (task.way, task.shot, task.tail_shot, task.labels) == (way, shot, 0, "shuffled")
    assert (inner.batch_size, inner.step_count, inner.learning_rate) == (
        batch_size,
        step_count,
        learning_rate,
    )
    assert (inner.preconditioner, inner.second_moment_decay, inner.epsilon) == (
        "carried",
        0.999,
        1e-8,
    )
    assert (inner.weight_decay_rate, inner.sampling) == (1.0, "cycling")
    assert (outer.algorithm, outer.optimizer, outer.meta_batch_size) == ("reptile", "sgd", 5)
    assert (outer.meta_step_size, outer.meta_step_size_final) == (1.0, 0.0)
    assert outer.meta_iterations == meta_iterations
    assert (evaluation.way, evaluation.shot, evaluation.query_count) == (way, 1, 1)
    assert (evaluation.batch_size, evaluation.step_count) == (10 if way == 20 else 5, 50)
    assert (evaluation.table.shots, evaluation.table.step_count) == ((1, 5), 50)
    # What serves a task of the trained way by default is what the paper evaluates with.
    rules = recipe.serving.batch_size_by_way
    default = next(rule.batch_size for rule in rules if way <= rule.max_way)
    assert default == evaluation.batch_size


@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
@pytest.mark.parametrize("name", list(MAML))
def test_maml_has_the_numbers_of_its_paper_and_code(name: str, algorithm: str) -> None:
    """arXiv 1703.03400, appendix A.1, and the commands of its authors' code."""
    recipe = load_image_recipe(f"{name}-{algorithm}")
    way, shot, tail, meta_batch, learning_rate, updates, test_updates = MAML[name]
    task, inner, outer, evaluation = recipe.task, recipe.inner, recipe.outer, recipe.evaluation

    assert (task.way, task.shot - task.tail_shot, task.tail_shot) == (way, shot, tail)
    assert (inner.preconditioner, inner.learning_rate) == ("sgd", learning_rate)
    # An update sees the whole support set; the last step only asks for the loss on the tail.
    assert (inner.batch_size, inner.step_count) == (way * shot, updates + 1)
    assert (outer.optimizer, outer.meta_step_size, outer.meta_step_size_final) == (
        "adam",
        1e-3,
        1e-3,
    )
    assert (outer.meta_batch_size, outer.meta_iterations) == (meta_batch, 60_000)
    counted = algorithm_of(outer, inner.step_count)
    assert counted.weights == (0.0,) * updates + (1.0,)
    assert counted.second_order == (algorithm == "maml")
    assert (evaluation.way, evaluation.shot) == (way, shot)
    assert (evaluation.batch_size, evaluation.step_count) == (way * shot, test_updates)
    assert recipe.serving.step_count == evaluation.table.step_count == test_updates
    assert evaluation.table.shots == ((1, 5) if name == "omniglot-20way" else (shot,))


@pytest.mark.parametrize("name", list(MAML))
def test_a_served_update_sees_whole_support_sets_of_up_to_five_shots(name: str) -> None:
    serving = load_image_recipe(f"{name}-maml").serving

    for rule in serving.batch_size_by_way:
        assert rule.batch_size == 5 * rule.max_way


@pytest.mark.parametrize("name", list(MAML))
def test_first_order_maml_differs_from_maml_in_the_order_alone(name: str) -> None:
    first, second = (load_image_recipe(f"{name}-{algorithm}") for algorithm in ("fomaml", "maml"))

    # Serial and stacked are the same with SGD; each is the faster one of its algorithm on a CPU.
    assert replace(first.outer, algorithm="maml", meta_batch="stacked") == second.outer
    for part in ("data", "input", "network", "batch_norm", "task", "inner", "evaluation"):
        assert getattr(first, part) == getattr(second, part)


@pytest.mark.parametrize("name", ON_IMAGES)
def test_the_network_and_the_data_are_those_of_the_literature(name: str) -> None:
    recipe = load_image_recipe(name)
    dataset, split, rotations, filters, downsampling, shape = {
        "omniglot": ("omniglot", "reptile", True, 64, "stride", (1, 28, 28)),
        "mini-imagenet": ("mini-imagenet", "ravi", False, 32, "max_pool", (3, 84, 84)),
        "cifar-fs": ("cifar-fs", "bertinetto", False, 64, "max_pool", (3, 32, 32)),
    }[recipe.data.dataset]
    if name == "cifar-fs-best":
        filters = 32  # as the published MAML that it is compared with

    assert (recipe.data.dataset, recipe.data.split) == (dataset, split)
    assert recipe.data.rotations == rotations
    assert recipe.network.name == "conv4"
    assert recipe.network.arguments == {"filters": filters, "downsampling": downsampling}
    assert recipe.input.shape == shape
    assert recipe.batch_norm.epsilon == 1e-3


def test_the_ablations_differ_from_the_paper_in_what_they_are_named_for() -> None:
    paper = load_image_recipe("omniglot-5way")
    sgd, fresh, joint = (
        load_image_recipe(f"omniglot-5way-{name}") for name in ("sgd", "fresh", "joint")
    )

    assert fresh.inner == replace(paper.inner, preconditioner="fresh")
    assert sgd.inner == replace(
        paper.inner, preconditioner="sgd", learning_rate=sgd.inner.learning_rate
    )
    assert joint.inner == replace(paper.inner, step_count=1, batch_size=50)
    assert joint.outer == replace(paper.outer, algorithm="joint")
    assert fresh.outer == sgd.outer == paper.outer
    for recipe in (sgd, fresh, joint):
        assert (recipe.task, recipe.data, recipe.evaluation) == (
            paper.task,
            paper.data,
            paper.evaluation,
        )


def test_pretraining_knows_every_class_by_its_number_and_starts_a_task_from_class_means() -> None:
    recipe = load_image_recipe("omniglot-pretraining")

    assert (recipe.task.way, recipe.task.labels) == (4_800, "fixed")
    assert (recipe.outer.algorithm, recipe.inner.step_count) == ("joint", 1)
    assert recipe.serving.head.default is Head.PROTOTYPE
    assert Head.TRAINED not in recipe.serving.head.allowed
