"""Strict reading of a recipe: every key by itself, then what must hold between keys."""

from kshot.bundle.document import DocumentError, parse
from kshot.trainer.errors import RecipeError
from kshot.trainer.recipe.checks import check_recipe, check_sine_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SINE, SineRecipe

__all__ = ["AnyRecipe", "parse_recipe"]

AnyRecipe = Recipe | SineRecipe


def parse_recipe(document: object, source: str) -> AnyRecipe:
    """Read a recipe from plain values; ``source`` names it in messages.

    The data set decides which kind it is: of classes of images, or of sine waves. Raises
    RecipeError for a key that is unknown, missing, mistyped, out of range, or at odds with another
    one.
    """
    try:
        if _dataset(document) == SINE:
            sine = parse(SineRecipe, document)
            check_sine_recipe(sine)
            return sine
        recipe = parse(Recipe, document)
        check_recipe(recipe)
    except DocumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error
    return recipe


def _dataset(document: object) -> object:
    data = document.get("data") if isinstance(document, dict) else None
    return data.get("dataset") if isinstance(data, dict) else None
