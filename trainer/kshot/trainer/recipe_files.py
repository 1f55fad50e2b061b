"""Recipes by name or path, with single values set on the command line."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe import Recipe
from kshot.trainer.recipe_parsing import AnyRecipe, parse_recipe

__all__ = ["list_recipes", "load_image_recipe", "load_recipe"]


def list_recipes() -> tuple[str, ...]:
    """List the names of the recipes that the package ships."""
    folder = files("kshot.trainer") / "recipes"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a shipped recipe by name, or any by the path of its TOML file.

    Each override is ``dotted.key=value``, its value written as in TOML (quotes around text may be
    left out), its key one that a recipe may have. Raises RecipeError.
    """
    if name_or_path in list_recipes():
        resource = files("kshot.trainer") / "recipes" / f"{name_or_path}.toml"
        text = resource.read_bytes()
    else:
        text = _read_file(name_or_path)
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {name_or_path} is not TOML: {error}") from error
    for override in overrides:
        _override(document, override)
    return parse_recipe(document, name_or_path)


def load_image_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe over a data set of images, as ``load_recipe`` does; raises RecipeError."""
    recipe = load_recipe(name_or_path, overrides)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe {name_or_path} is on sine waves, wanted one on images")
    return recipe


def _read_file(path: str) -> bytes:
    if not path.endswith(".toml"):
        known = ", ".join(list_recipes())
        raise RecipeError(f"recipe is {path!r}, wanted one of: {known}; or a path to a .toml file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error


def _override(document: dict[str, object], override: str) -> None:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"setting is {override!r}, wanted key=value, as in inner.step_count=3")
    table: object = document
    *parents, last = key.split(".")
    for depth, name in enumerate([*parents, last]):
        known = isinstance(table, dict) and (name in table or depth == len(parents) > 0)
        if not known:
            place = ".".join(key.split(".")[:depth]) or "the recipe"
            wanted = (
                f"wanted one of: {', '.join(table)}" if isinstance(table, dict) else "it is a value"
            )
            raise RecipeError(f"setting {key}: {place} has no key {name!r}, {wanted}")
        assert isinstance(table, dict)  # noqa: S101 -- known
        if depth < len(parents):
            table = table[name]
    assert isinstance(table, dict)  # noqa: S101 -- the loop above walked through it
    # A last key that is not there may be an optional one; an unknown one is refused by the parser.
    table[last] = _value(value.strip(), table.get(last))


def _value(text: str, present: object) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, too long an integer, too deep a list
        return text
    if set(parsed) != {"value"} or (isinstance(present, str) and text[:1] not in ("'", '"')):
        return text
    return parsed["value"]
