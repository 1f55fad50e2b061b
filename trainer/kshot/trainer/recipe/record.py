"""The recipe of a training, kept beside its checkpoint for people."""

import json
from pathlib import Path

from kshot.bundle import replace_file
from kshot.bundle.document import plain
from kshot.trainer.errors import TrainingError
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import PROSE

RECIPE_FILE = "recipe.json"


def write_recipe(folder: Path, recipe: AnyRecipe) -> None:
    """Write a recipe with every setting, replacing an earlier one; raises `TrainingError`."""
    path = folder / RECIPE_FILE
    try:
        replace_file(path, (json.dumps(plain(recipe), indent=2) + "\n").encode())
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def recipe_differences(folder: Path, recipe: AnyRecipe) -> str:
    """Name the keys that differ from the folder's recipe, as `outer.seed is 0, here 1`.

    Returns an empty string where the folder has no readable recipe.
    """
    try:
        recorded = json.loads((folder / RECIPE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    there, here = _leaves(recorded), _leaves(plain(recipe))
    return ", ".join(
        f"{key} is {there.get(key, 'not set')}, here {here.get(key, 'not set')}"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key) and key not in PROSE
    )


def _leaves(value: object, key: str = "") -> dict[str, str]:
    """Flatten objects to dotted keys; any other value becomes JSON."""
    if not isinstance(value, dict):
        return {key: json.dumps(value)}
    return {
        leaf: text
        for name, item in value.items()
        for leaf, text in _leaves(item, f"{key}.{name}" if key else name).items()
    }
