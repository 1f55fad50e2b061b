"""Reading recipes by name or path, with single values overridden."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.overrides import override
from kshot.trainer.recipe.parsing import AnyRecipe, parse_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.start import apply_start

_SHIPPED = files("kshot.trainer.recipe") / "shipped"


def list_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that the package ships."""
    names = (entry.name for entry in _SHIPPED.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), start: str | None = None
) -> AnyRecipe:
    """Read a shipped recipe by name, or any recipe by the path of its TOML file.

    `start` names the bundle to start from, in place of `start.bundle`. Each override is
    `dotted.key=value`. Its value is written as in TOML, where quotes around text are optional;
    without a value the key is left out. Raises `RecipeError`.
    """
    document = _document(name_or_path)
    for setting in overrides:
        override(document, setting)
    if start is not None:
        document["start"] = {"bundle": start}
    apply_start(document, name_or_path)
    return parse_recipe(document, name_or_path)


def load_image_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe for images, as `load_recipe` does; raises `RecipeError`."""
    recipe = load_recipe(name_or_path, overrides)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe {name_or_path}: expected one for images, got one for sine waves")
    return recipe


def shipped_text(name: str) -> str:
    """Return the TOML file of a shipped recipe, comments included."""
    return (_SHIPPED / f"{name}.toml").read_text(encoding="utf-8")


def unknown_recipe(name: str) -> str:
    """Return the message for a name that no shipped recipe has."""
    return f"recipe: expected one of {', '.join(list_recipes())}, got {name!r}"


def _document(name_or_path: str) -> dict[str, object]:
    try:
        if name_or_path in list_recipes():
            return tomllib.loads(shipped_text(name_or_path))
        return tomllib.loads(_read_file(name_or_path).decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {name_or_path}: not TOML: {error}") from error


def _read_file(path: str) -> bytes:
    if not path.endswith(".toml"):
        raise RecipeError(f"{unknown_recipe(path)}; a file needs the suffix .toml")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
