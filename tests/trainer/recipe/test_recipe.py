from importlib.resources import files
from pathlib import Path

import pytest

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.recipe.sine import SineRecipe

PAPER = load_image_recipe("omniglot-5way")


def test_every_shipped_recipe_loads_under_its_own_name() -> None:
    assert "omniglot-5way" in list_recipes()
    for name in list_recipes():
        assert load_recipe(name).name == name


def test_the_five_way_recipe_has_the_numbers_of_the_paper() -> None:
    """arXiv 1803.02999v3, appendix A, tables 3 and 4."""
    assert (PAPER.task.way, PAPER.task.shot) == (5, 10)
    assert (PAPER.inner.batch_size, PAPER.inner.step_count) == (10, 5)
    assert (PAPER.inner.learning_rate, PAPER.inner.second_moment_decay) == (1e-3, 0.999)
    assert (PAPER.outer.meta_step_size, PAPER.outer.meta_step_size_final) == (1.0, 0.0)
    assert (PAPER.outer.meta_batch_size, PAPER.outer.meta_iterations) == (5, 100_000)
    assert (PAPER.evaluation.batch_size, PAPER.evaluation.step_count) == (5, 50)
    table = PAPER.evaluation.table
    assert (table.shots, table.query_count, table.step_count) == ((1, 5), 1, 50)


def test_a_setting_replaces_one_value() -> None:
    recipe = load_image_recipe(
        "omniglot-5way",
        [
            "inner.step_count=3",
            "outer.meta_batch=stacked",
            "name='quick'",
            "serving.batch_sizes=[5, 10]",
            "network.arguments.filters=32",
            "outer.meta_step_size=1",
        ],
    )

    assert recipe.inner.step_count == 3
    assert recipe.outer.meta_batch == "stacked"
    assert recipe.name == "quick"
    assert recipe.serving.batch_sizes == (5, 10)
    assert recipe.network.arguments == {"filters": 32, "downsampling": "stride"}
    assert isinstance(recipe.outer.meta_step_size, float)
    assert recipe.inner.learning_rate == PAPER.inner.learning_rate


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("inner.step_count=three", 'inner.step_count: got "three", wanted an integer'),
        ("inner.step_count=2.5", "inner.step_count: got 2.5, wanted an integer"),
        ("inner.step_count=true", "inner.step_count: got true, wanted an integer"),
        pytest.param(
            f"inner.step_count={'1' * 5000}", "inner.step_count: got", id="a long integer"
        ),
        pytest.param(f"inner.step_count={'[' * 5000}", "inner.step_count: got", id="a deep list"),
        ("inner.step_count=0", "inner.step_count: got 0, wanted an integer of at least 1"),
        ("inner.learning_rate=nan", "inner.learning_rate: got NaN, wanted a finite number"),
        ("inner.learning_rate=-1", "inner.learning_rate: got -1, wanted a number above 0"),
        ("inner.learning_rate=2", "inner.learning_rate: got 2.0, wanted at most serving.limits"),
        ("inner.steps=3", "inner.steps: got an unknown key, wanted one of preconditioner"),
        ("inner.step_count.x=3", "inner.step_count has no key 'x'"),
        ("outer=3", "outer: got 3, wanted an object"),
        ("steps=3", "the recipe has no key 'steps', wanted one of: name, description"),
        ("outer.algorithm=mall", 'outer.algorithm: got "mall", wanted one of reptile'),
        ("outer.algorithm=maml", "inner.preconditioner: got carried, wanted sgd with algorithm"),
        ("outer.algorithm=joint", "inner.step_count: got 5, wanted 1 with algorithm joint"),
        ("outer.algorithm=weighted", "outer.gradient_weights: got none, wanted 5, one for each"),
        ("outer.gradient_weights=[1.0]", "got 1.0, wanted none with algorithm reptile"),
        ("inner.preconditioner=sgd", "serving.preconditioners: got carried, frozen, wanted none"),
        ("inner.preconditioner=frozen", 'inner.preconditioner: got "frozen", wanted one of'),
        ("inner.weight_decay_rate=1.5", "got 1.5, wanted a number above 0, at most 1"),
        ("task.tail_shot=10", "task.tail_shot: got 10, wanted less than shot, 10"),
        ("task.labels=fixed", "outer.algorithm: got reptile, wanted joint with fixed labels"),
        ("data.folder=mine", "data.folder: got mine, wanted none: only data set folder has one"),
        ("data.dataset=folder", "data.folder: got none, wanted a folder"),
        ("inner.step_count", "setting is 'inner.step_count', wanted key=value"),
        ("=3", "setting is '=3', wanted key=value"),
        ("serving.way_buckets=[5, 10]", "got 10 as the last, wanted serving.limits.max_way, 50"),
        ("serving.way_buckets=[10, 5, 50]", "got 10, 5, 50, wanted growing numbers"),
        ("evaluation.table.shots=[5, 5]", "evaluation.table.shots: got 5, 5, wanted growing"),
        ("evaluation.table.shots=[]", "evaluation.table.shots: got [], wanted at least one number"),
        ("serving.batch_sizes=[5]", "batch_size_by_way[1].batch_size: got 10, wanted one of"),
        ("task.way=60", "task.way: got 60, wanted at most serving.limits.max_way, 50"),
        ("serving.step_count=201", "wanted at most serving.limits.max_step_count, 200"),
        ("serving.preconditioners=['sgd']", "serving.preconditioner: got carried, wanted one of"),
        ("input.shape=[1, 32, 32]", "input.shape: got 1, 32, 32, wanted 1, 28, 28, as its steps"),
        ("input.preprocessing=[]", "input.preprocessing: got , wanted grayscale or rgb, then"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_key(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("omniglot-5way", [setting])

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("outer.algorithm=weighted", "outer.gradient_weights=[1, 2]"),
            "outer.gradient_weights: got 2 numbers, wanted 5, one for each inner step",
        ),
        (
            ("outer.algorithm=weighted", "outer.gradient_weights=[0, 0, 0.0, 0, 0]"),
            "outer.gradient_weights: got 0.0, 0.0, 0.0, 0.0, 0.0, wanted one that is not 0",
        ),
        (
            ("inner.sampling=replacement", "inner.batch_size=60"),
            "inner.batch_size: got 60, wanted at most the 50 examples to draw from",
        ),
        (
            ("outer.algorithm=fomaml", "task.tail_shot=2", "inner.step_count=1"),
            "inner.step_count: got 1, wanted at least 2 with a separate tail",
        ),
        (
            ("outer.algorithm=joint", "inner.step_count=1", "task.labels=fixed"),
            "task.labels: got fixed, wanted shuffled, or shot 1 and sampling cycling",
        ),
    ],
)
def test_settings_at_odds_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("omniglot-5way", settings)

    assert message in str(caught.value)


def test_a_recipe_on_sine_waves_is_none_on_images() -> None:
    assert isinstance(load_recipe("sine"), SineRecipe)
    with pytest.raises(RecipeError, match="recipe sine is on sine waves, wanted one on images"):
        load_image_recipe("sine")
    with pytest.raises(RecipeError, match=r"task\.phase: got \[1, 1\], wanted two numbers, the"):
        load_recipe("sine", ["task.phase=[1, 1]"])
    with pytest.raises(RecipeError, match=r"evaluation\.way: got an unknown key"):
        load_recipe("sine", ["evaluation.way=5"])
    with pytest.raises(RecipeError, match="got 51, wanted at most the 50 examples to draw from"):
        load_recipe("sine", ["inner.sampling=replacement", "inner.batch_size=51"])
    with pytest.raises(RecipeError, match="got 5, wanted 1 with algorithm joint"):
        load_recipe("sine", ["outer.algorithm=joint"])


def test_a_value_cannot_smuggle_in_another_key() -> None:
    with pytest.raises(RecipeError, match=r"inner.step_count"):
        load_recipe("omniglot-5way", ["inner.step_count=3\nother=4"])


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'omniglot-6way', wanted one of: .*omniglot-5way"):
        load_recipe("omniglot-6way")


def write_variant(folder: Path, before: str, after: str) -> str:
    text = (files("kshot.trainer.recipe") / "shipped" / "omniglot-5way.toml").read_text()
    assert before in text
    path = folder / "mine.toml"
    path.write_text(text.replace(before, after, 1))
    return str(path)


def test_a_recipe_is_read_from_a_path(tmp_path: Path) -> None:
    path = write_variant(tmp_path, "seed = 0", "seed = 7")

    assert load_recipe(path).outer.seed == 7


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed = 0", "seed = 0\nsede = 1", "outer.sede: got an unknown key"),
        ("seed = 0\n", "", "outer.seed: got no such key, wanted it to be there"),
        ("seed = 0", "seed =", "is not TOML"),
        pytest.param("seed = 0", f"seed = {'1' * 5000}", "is not TOML", id="a long integer"),
        pytest.param("seed = 0", f"seed = {'[' * 5000}", "is not TOML", id="a deep list"),
        ("[outer]", "[outer_loop]", "outer_loop: got an unknown key"),
    ],
)
def test_a_file_with_a_wrong_key_is_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_variant(tmp_path, before, after))

    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(RecipeError, match=r"cannot read recipe .*No such file"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(str(binary))


def test_the_digest_names_numbers_and_not_prose() -> None:
    assert recipe_digest(PAPER) == recipe_digest(load_recipe("omniglot-5way", ["cost=nothing"]))
    assert recipe_digest(PAPER) != recipe_digest(load_recipe("omniglot-5way", ["outer.seed=1"]))
