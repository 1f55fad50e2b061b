"""Recipes by name or path, those of experiments' arms too, with single values set."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kshot.trainer.errors import RecipeError
from kshot.trainer.experiment_files import arm_documents
from kshot.trainer.recipe.overrides import override
from kshot.trainer.recipe.parsing import AnyRecipe, parse_recipe
from kshot.trainer.recipe.recipe import Recipe

__all__ = ["list_recipes", "load_image_recipe", "load_recipe", "unknown_recipe"]


def list_recipes() -> tuple[str, ...]:
    """List the names of the recipes that the package ships, experiments' arms among them."""
    return tuple(sorted((*_recipe_names(), *arm_documents())))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a shipped recipe by name, or any by the path of its TOML file.

    The recipe of an experiment's arm is named ``<experiment>-<arm>``. Each override is
    ``dotted.key=value``, its value written as in TOML (quotes around text may be left out), its key
    one that a recipe may have. Raises RecipeError.
    """
    document = _document(name_or_path)
    for setting in overrides:
        override(document, setting)
    return parse_recipe(document, name_or_path)


def load_image_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe over a data set of images, as ``load_recipe`` does; raises RecipeError."""
    recipe = load_recipe(name_or_path, overrides)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe {name_or_path} is on sine waves, wanted one on images")
    return recipe


def unknown_recipe(name: str) -> str:
    """Say that a name is no shipped recipe's, and which there are; of arms there are too many."""
    known = ", ".join(sorted(_recipe_names()))
    return f"recipe is {name!r}, wanted one of: {known}; an experiment's arm, as figure3-g1"


def _recipe_names() -> tuple[str, ...]:
    folder = files("kshot.trainer.recipe") / "shipped"
    names = (entry.name for entry in folder.iterdir())
    return tuple(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _document(name_or_path: str) -> dict[str, object]:
    if name_or_path in _recipe_names():
        resource = files("kshot.trainer.recipe") / "shipped" / f"{name_or_path}.toml"
        text = resource.read_bytes()
    elif (arm := arm_documents().get(name_or_path)) is not None:
        return arm
    else:
        text = _read_file(name_or_path)
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {name_or_path} is not TOML: {error}") from error


def _read_file(path: str) -> bytes:
    if not path.endswith(".toml"):
        raise RecipeError(f"{unknown_recipe(path)}; or a path to a .toml file")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
