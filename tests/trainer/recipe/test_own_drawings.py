"""The recipe of a user's drawings fits folders of any size."""

import pytest

from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.own_drawings import RECIPE, own_drawings
from kshot.trainer.recipe.recipe import Recipe


@pytest.mark.parametrize(
    ("train", "test", "task", "table"),
    [
        ((72, 40), (24, 40), (60, 4, 3), (5, (1, 5))),
        ((5, 3), (5, 6), (20, 3, 2), (5, (1, 5))),
        ((2, 2), (2, 2), (8, 2, 1), (2, (1,))),
    ],
)
def test_tasks_are_as_large_as_the_folder_allows(
    train: tuple[int, int],
    test: tuple[int, int],
    task: tuple[int, int, int],
    table: tuple[int, tuple[int, ...]],
) -> None:
    settings = own_drawings('2024 "ü"', "held-out:0", "mine", train, test)

    recipe = load_recipe(RECIPE, settings, "drawings")

    assert isinstance(recipe, Recipe)
    assert recipe.data.folder == '2024 "ü"'
    assert (recipe.task.way, recipe.task.shot, recipe.task.tail_shot) == task
    assert (recipe.evaluation.table.way, recipe.evaluation.table.shots) == table
    assert max(table[1]) + recipe.evaluation.table.query_count <= test[1]
    assert recipe.serving.name == "mine"
    assert (recipe.augmentation is None) == (train[1] >= 10)
