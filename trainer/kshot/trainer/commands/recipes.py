"""`kshot recipes`: the recipes that the package ships."""

import json
import re
import textwrap

import click

from kshot.trainer.recipe.files import list_recipes, load_recipe, shipped_text, unknown_recipe
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import plain_recipe, recipe_digest

WIDTH = 80


@click.command("recipes")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the recipes that `kshot train` knows, with what each reproduces and costs.

    With NAME, print that recipe as TOML, as a start for your own.
    """
    known = list_recipes()
    for name in names:
        if name not in known:
            raise click.UsageError(unknown_recipe(name))
    if as_json:
        documents = [recipe_document(load_recipe(name)) for name in names or known]
        click.echo(json.dumps({"recipes": documents}))
    elif names:
        click.echo("\n".join(shipped_text(name) for name in names), nl=False)
    else:
        click.echo(listing())


def recipe_document(recipe: AnyRecipe) -> dict[str, object]:
    """Lay out a recipe as JSON: its digest and every key."""
    return {"name": recipe.name, "digest": recipe_digest(recipe), **plain_recipe(recipe)}


def listing() -> str:
    """Lay out all recipes as text, by data set."""
    recipes = [load_recipe(name) for name in sorted(list_recipes(), key=_natural)]
    return "\n\n\n".join(
        "\n\n".join([dataset, *(_recipe_text(of) for of in recipes if of.data.dataset == dataset)])
        for dataset in sorted({recipe.data.dataset for recipe in recipes})
    )


def _recipe_text(recipe: AnyRecipe) -> str:
    said = [f"  {recipe.name}"]
    paragraphs = {
        "": recipe.description,
        "reproduces  ": recipe.reproduces,
        "cost        ": recipe.cost,
    }
    for label, text in paragraphs.items():
        first = f"    {label}"
        rest = " " * len(first)
        said += textwrap.wrap(
            text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )
    return "\n".join(said)


def _natural(name: str) -> list[tuple[int, str]]:
    """Order names by the numbers in them: 5way before 20way."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
