"""The recipe beside a checkpoint, and what makes one recipe of another."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from kshot.bundle import replace_file
from kshot.trainer.errors import writing
from kshot.trainer.recipe.files import list_recipes, load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import PROSE, plain_recipe

RECIPE_FILE = "recipe.json"
Document = Mapping[str, object]


def write_recipe(folder: Path, recipe: AnyRecipe) -> None:
    """Write a recipe with every setting, replacing an earlier one; raises `TrainingError`."""
    path = folder / RECIPE_FILE
    with writing(path):
        replace_file(path, (json.dumps(plain_recipe(recipe), indent=2) + "\n").encode())


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


def recipe_words(recipe: AnyRecipe) -> list[str] | None:
    """Return what to write after `kshot train` for a recipe, None where no words lead to it.

    These are the name of a shipped recipe and a `--set key=value` for each value that differs.
    """
    if recipe.name not in list_recipes():
        return None
    words = [recipe.name]
    for key, _, value in differences(plain_recipe(load_recipe(recipe.name)), plain_recipe(recipe)):
        if value is None:  # no setting removes a key
            return None
        words += ["--set", f"{key}={_toml(value)}"]
    return words


def differences(
    there: Document, here: Document, prefix: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Yield the dotted key and both values of each difference, without prose; None is no value.

    A table that lacks a key of the other's is one value.
    """
    for name in {**there, **here}:
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() <= new.keys():
            yield from differences(old, new, f"{prefix}{name}.")
        elif old != new and name not in PROSE:
            yield f"{prefix}{name}", old, new


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _shown(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
