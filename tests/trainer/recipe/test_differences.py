from dataclasses import replace

import pytest

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.differences import recipe_words
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import recipe_digest


@pytest.mark.parametrize("name", list_recipes())
def test_a_shipped_recipe_is_its_name(name: str) -> None:
    assert recipe_words(load_recipe(name)) == [name]


@pytest.mark.parametrize(
    "settings",
    [
        ("outer.seed=1", "inner.epsilon=1e-7", "data.rotations=false"),
        ("outer.algorithm=weighted", "outer.gradient_weights=[1, 0, 0, 0, 0.5]"),
        ("data.dataset=folder", 'data.folder=a "quoted" ü', "data.split=parts"),
        ("serving.batch_size_by_way=[{ max_way = 50, batch_size = 10 }]", "network.name=conv4"),
        ("network={ name = 'mlp', arguments = { hidden_units = 3, hidden_layers = 1 } }",),
        ("name=sine",),  # a recipe for sine waves becomes one for images
    ],
)
def test_settings_lead_from_the_shipped_recipe_to_this_one(settings: tuple[str, ...]) -> None:
    recipe = load_image_recipe("omniglot-5way", settings)

    words = recipe_words(recipe)

    assert words is not None
    assert words[1::2] == ["--set"] * (len(words) // 2)
    assert recipe_digest(load_recipe(words[0], words[2::2])) == recipe_digest(recipe)


def test_prose_counts_for_nothing_and_other_names_are_not_shipped() -> None:
    recipe = load_recipe("sine")

    assert recipe_words(replace(recipe, cost="a minute")) == ["sine"]
    assert recipe_words(replace(recipe, name="mine")) is None


def test_a_setting_without_a_value_leaves_out_a_table() -> None:
    recipe = load_image_recipe("cifar-fs-best", ("augmentation=",))

    assert recipe.augmentation is None
    assert recipe_words(recipe) == ["cifar-fs-best", "--set", "augmentation="]
    with pytest.raises(RecipeError, match="outer: required key is missing"):
        load_image_recipe("cifar-fs-best", ("outer=",))
