"""The command-line words that turn a shipped recipe into another one."""

import json
from collections.abc import Iterator, Mapping

from kshot.bundle.document import plain
from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.files import list_recipes, load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import PROSE, recipe_digest


def recipe_words(recipe: AnyRecipe) -> list[str] | None:
    """Return what to write after `kshot train` for a recipe, None without a shipped recipe.

    These are the name of the shipped recipe and a `--set key=value` for each value that differs.
    """
    if recipe.name not in list_recipes():
        return None
    there, here = plain(load_recipe(recipe.name)), plain(recipe)
    assert isinstance(there, dict)  # noqa: S101 -- a dataclass becomes a dict
    assert isinstance(here, dict)  # noqa: S101 -- as above
    settings = [setting for setting in _settings(there, here) if not setting.startswith(PROSE)]
    try:
        same = recipe_digest(load_recipe(recipe.name, settings)) == recipe_digest(recipe)
    except RecipeError:  # no settings lead there, for example from images to sine waves
        return None
    words = [word for setting in settings for word in ("--set", setting)]
    return [recipe.name, *words] if same else None


def _settings(
    there: Mapping[str, object], here: Mapping[str, object], prefix: str = ""
) -> Iterator[str]:
    """Yield `key=value` for each difference; a table that lacks a key of the other is one value."""
    for name, value in here.items():
        key, other = f"{prefix}{name}", there.get(name)
        if isinstance(value, dict) and isinstance(other, dict) and other.keys() <= value.keys():
            yield from _settings(other, value, f"{key}.")
        elif name not in there or value != other:
            yield f"{key}={_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
