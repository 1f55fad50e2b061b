"""The differences between two recipes."""

import json
from collections.abc import Iterator, Mapping

from kshot.trainer.recipe.files import list_recipes, load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import PROSE, Recipe, plain_recipe

Document = Mapping[str, object]


def recipe_words(recipe: AnyRecipe) -> list[str] | None:
    """Return what to write after `kshot train` for a recipe, None where no words lead to it.

    These are the name of a shipped recipe, its `--start BUNDLE`, and a `--set key=value` for each
    value that differs.
    """
    if recipe.name not in list_recipes():
        return None
    words, start, settings = [recipe.name], None, list[str]()
    if isinstance(recipe, Recipe) and recipe.start is not None:
        start = recipe.start.bundle
        words += ["--start", start]
        if recipe.encoded_shape is not None and _augments(load_recipe(recipe.name)):
            settings.append("augmentation=")
    shipped = plain_recipe(load_recipe(recipe.name, settings, start))
    for key, _, value in differences(shipped, plain_recipe(recipe)):
        settings.append(f"{key}=" if value is None else f"{key}={_toml(value)}")
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def _augments(recipe: AnyRecipe) -> bool:
    return isinstance(recipe, Recipe) and recipe.augmentation is not None


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
