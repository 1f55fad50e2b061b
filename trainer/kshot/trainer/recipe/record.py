"""The record of a training's recipe: `recipe.json` beside the checkpoint."""

import json
from pathlib import Path

from kshot.local import write_file
from kshot.trainer.errors import writing
from kshot.trainer.recipe.differences import differences
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import plain_recipe

RECIPE_FILE = "recipe.json"


def write_recipe(folder: Path, recipe: AnyRecipe) -> None:
    """Write a recipe with every setting, replacing an earlier one; raises `TrainingError`."""
    path = folder / RECIPE_FILE
    with writing(path):
        write_file(path, (json.dumps(plain_recipe(recipe), indent=2) + "\n").encode())


def recipe_differences(folder: Path, recipe: AnyRecipe) -> str:
    """Name the keys that differ from the folder's recipe, as `outer.seed is 0, here 1`.

    Returns an empty string where the folder has no readable recipe.
    """
    try:
        recorded = json.loads((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    found = differences(recorded, plain_recipe(recipe)) if isinstance(recorded, dict) else ()
    return ", ".join(f"{key} is {_shown(there)}, here {_shown(here)}" for key, there, here in found)


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
