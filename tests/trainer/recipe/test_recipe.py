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
        ("inner.step_count=three", 'inner.step_count: expected an integer, got "three"'),
        ("inner.step_count=2.5", "inner.step_count: expected an integer, got 2.5"),
        ("inner.step_count=true", "inner.step_count: expected an integer, got true"),
        pytest.param(
            f"inner.step_count={'1' * 5000}",
            'inner.step_count: expected an integer, got "111',
            id="a long integer",
        ),
        pytest.param(
            f"inner.step_count={'[' * 5000}",
            'inner.step_count: expected an integer, got "[[[',
            id="a deep list",
        ),
        ("inner.step_count=0", "inner.step_count: expected an integer of at least 1, got 0"),
        ("inner.learning_rate=nan", "inner.learning_rate: expected a finite number, got NaN"),
        ("inner.learning_rate=-1", "inner.learning_rate: expected a number above 0, got -1"),
        (
            "inner.learning_rate=2",
            "expected at most 1.0 (serving.limits.max_learning_rate), got 2.0",
        ),
        ("inner.steps=3", "inner.steps: unknown key; expected one of preconditioner"),
        ("inner.step_count.x=3", "inner.step_count is a value and has no key 'x'"),
        ("outer=3", "outer: expected an object, got 3"),
        ("steps=3", "steps: unknown key; expected one of name, description"),
        (
            "outer.algorithm=mall",
            'expected one of reptile, fomaml, maml, joint, weighted, got "mall"',
        ),
        ("outer.algorithm=maml", "inner.preconditioner: expected sgd with algorithm maml, got"),
        ("outer.algorithm=joint", "inner.step_count: expected 1 with algorithm joint, got 5"),
        (
            "outer.algorithm=weighted",
            "gradient_weights: expected 5 numbers, one for each inner step, got none",
        ),
        ("outer.gradient_weights=[1.0]", "expected no such key with algorithm reptile, got [1.0]"),
        (
            "inner.preconditioner=sgd",
            "serving.preconditioners: expected neither carried nor frozen, unless inner",
        ),
        ("inner.preconditioner=frozen", 'expected one of carried, fresh, sgd, got "frozen"'),
        ("inner.weight_decay_rate=1.5", "expected a number above 0, at most 1, got 1.5"),
        ("task.tail_shot=10", "task.tail_shot: expected less than task.shot, 10, got 10"),
        ("task.labels=fixed", "outer.algorithm: expected joint with fixed labels, got reptile"),
        ("data.folder=mine", "data.folder: expected no such key with data set omniglot; only"),
        ("data.dataset=folder", "data.folder: expected a folder, got none"),
        (
            "inner.step_count",
            "setting: expected key=value, as in inner.step_count=3, got 'inner.step_count'",
        ),
        ("=3", "setting: expected key=value, as in inner.step_count=3, got '=3'"),
        (
            "serving.way_buckets=[5, 10]",
            "expected the last value to be at least 50 (serving.limits.max_way), got 10",
        ),
        (
            "serving.way_buckets=[10, 5, 50]",
            "way_buckets: expected growing numbers, got [10, 5, 50]",
        ),
        (
            "evaluation.table.shots=[5, 5]",
            "evaluation.table.shots: expected growing numbers, got [5, 5]",
        ),
        (
            "evaluation.table.shots=[]",
            "evaluation.table.shots: expected at least one number, got []",
        ),
        (
            "serving.batch_sizes=[5]",
            "serving.batch_size_by_way[1].batch_size: expected an allowed value (5), got 10",
        ),
        ("task.way=60", "task.way: expected at most 50 (serving.limits.max_way), got 60"),
        ("serving.step_count=201", "expected at most 200 (serving.limits.max_step_count)"),
        (
            "serving.preconditioners=['sgd']",
            "serving.preconditioner: expected an allowed value (sgd)",
        ),
        ("input.shape=[1, 32, 32]", "input.shape: expected [1, 28, 28], which the preprocessing"),
        ("input.preprocessing=[]", "input.shape: expected [features, 1, 1] without preprocessing"),
        (
            "serving.step_count_by_shot=[{max_shot=1, step_count=201}]",
            "serving.step_count_by_shot[0].step_count: expected at most 200",
        ),
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
            "outer.gradient_weights: expected 5 numbers, one for each inner step, got 2 numbers",
        ),
        (
            ("outer.algorithm=weighted", "outer.gradient_weights=[0, 0, 0.0, 0, 0]"),
            "outer.gradient_weights: expected a number that is not 0, got [0.0, 0.0, 0.0, 0.0,",
        ),
        (
            ("inner.sampling=replacement", "inner.batch_size=60"),
            "inner.batch_size: expected at most the 50 examples, with sampling replacement, got 60",
        ),
        (
            ("outer.algorithm=fomaml", "task.tail_shot=2", "inner.step_count=1"),
            "inner.step_count: expected at least 2 with a separate tail, got 1",
        ),
        (
            ("outer.algorithm=joint", "inner.step_count=1", "task.labels=fixed"),
            "task.labels: expected shuffled, or shot 1 and sampling cycling, got fixed",
        ),
    ],
)
def test_settings_at_odds_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("omniglot-5way", settings)

    assert message in str(caught.value)


def test_a_recipe_on_sine_waves_is_none_on_images() -> None:
    assert isinstance(load_recipe("sine"), SineRecipe)
    with pytest.raises(
        RecipeError, match="recipe sine: expected one for images, got one for sine waves"
    ):
        load_image_recipe("sine")
    with pytest.raises(
        RecipeError, match=r"task\.phase: expected two growing numbers, got \[1, 1\]"
    ):
        load_recipe("sine", ["task.phase=[1, 1]"])
    with pytest.raises(RecipeError, match=r"evaluation\.way: unknown key"):
        load_recipe("sine", ["evaluation.way=5"])
    with pytest.raises(RecipeError, match=r"expected at most the 50 examples, .*, got 51"):
        load_recipe("sine", ["inner.sampling=replacement", "inner.batch_size=51"])
    with pytest.raises(RecipeError, match="expected 1 with algorithm joint, got 5"):
        load_recipe("sine", ["outer.algorithm=joint"])


def test_a_value_cannot_smuggle_in_another_key() -> None:
    with pytest.raises(RecipeError, match=r"inner.step_count"):
        load_recipe("omniglot-5way", ["inner.step_count=3\nother=4"])


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(
        RecipeError, match=r"recipe: expected one of .*omniglot-5way.*, got 'omniglot-6way'"
    ):
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
        ("seed = 0", "seed = 0\nsede = 1", "outer.sede: unknown key"),
        ("seed = 0\n", "", "outer.seed: required key is missing"),
        ("seed = 0", "seed =", "not TOML"),
        pytest.param("seed = 0", f"seed = {'1' * 5000}", "not TOML", id="a long integer"),
        pytest.param("seed = 0", f"seed = {'[' * 5000}", "not TOML", id="a deep list"),
        ("[outer]", "[outer_loop]", "outer_loop: unknown key"),
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
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(str(binary))


def test_the_digest_names_numbers_and_not_prose() -> None:
    assert recipe_digest(PAPER) == recipe_digest(load_recipe("omniglot-5way", ["cost=nothing"]))
    assert recipe_digest(PAPER) != recipe_digest(load_recipe("omniglot-5way", ["outer.seed=1"]))
