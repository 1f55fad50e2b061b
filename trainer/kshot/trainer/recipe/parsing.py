"""Strict reading of a recipe: each key by itself, then the keys together."""

from collections.abc import Callable, Mapping

from kshot.bundle.document import DocumentError, parse
from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.checks import check_recipe, check_sine_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SINE, SineRecipe

AnyRecipe = Recipe | SineRecipe


def parse_recipe(document: object, source: str) -> AnyRecipe:
    """Read a recipe from plain values; `source` names it in messages.

    Its data set decides its kind. Raises `RecipeError` for a key that is unknown, missing,
    mistyped, out of range, or inconsistent with another key.
    """
    try:
        return _PARSERS.get(_dataset(document), _parse_images)(document)
    except DocumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error


def _dataset(document: object) -> str:
    data = document.get("data") if isinstance(document, dict) else None
    return str(data.get("dataset")) if isinstance(data, dict) else ""


def _parse_images(document: object) -> Recipe:
    recipe = parse(Recipe, document)
    check_recipe(recipe)
    return recipe


def _parse_sine(document: object) -> SineRecipe:
    recipe = parse(SineRecipe, document)
    check_sine_recipe(recipe)
    return recipe


# The data sets whose recipes have keys of their own.
_PARSERS: Mapping[str, Callable[[object], AnyRecipe]] = {SINE: _parse_sine}
