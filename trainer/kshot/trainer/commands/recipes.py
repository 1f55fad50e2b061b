"""`kshot recipes`: the trainings that the package ships."""

import json

import click

from kshot.trainer.recipe import Recipe
from kshot.trainer.recipe_files import list_recipes, load_recipe

__all__ = ["command"]


@click.command("recipes")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(as_json: bool) -> None:
    """List the recipes that `kshot train` knows, what each reproduces and what it costs."""
    recipes = [load_recipe(name) for name in list_recipes()]
    if as_json:
        click.echo(json.dumps({"recipes": [recipe_document(recipe) for recipe in recipes]}))
    else:
        click.echo("\n\n".join(recipe_text(recipe) for recipe in recipes))


def recipe_document(recipe: Recipe) -> dict[str, str]:
    """Lay out a recipe's prose for machines."""
    return {
        "name": recipe.name,
        "description": recipe.description,
        "reproduces": recipe.reproduces,
        "cost": recipe.cost,
    }


def recipe_text(recipe: Recipe) -> str:
    """Lay out a recipe's prose for people."""
    return (
        f"{recipe.name}: {recipe.description}\n"
        f"  reproduces  {recipe.reproduces}\n"
        f"  cost        {recipe.cost}"
    )
