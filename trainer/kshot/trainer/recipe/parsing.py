"""Strict reading of a recipe: each key by itself, then the keys together."""

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
        data = document.get("data") if isinstance(document, dict) else None
        if isinstance(data, dict) and data.get("dataset") == SINE:
            waves = parse(SineRecipe, document)
            check_sine_recipe(waves)
            return waves
        images = parse(Recipe, document)
        check_recipe(images)
        return images
    except DocumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error
