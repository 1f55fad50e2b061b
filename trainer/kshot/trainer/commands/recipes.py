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
    by_dataset: dict[str, list[AnyRecipe]] = {}
    for name in sorted(list_recipes(), key=_natural):
        recipe = load_recipe(name)
        by_dataset.setdefault(recipe.data.dataset, []).append(recipe)
    groups = [
        f"{dataset}\n\n" + "\n\n".join(map(_recipe_text, by_dataset[dataset]))
        for dataset in sorted(by_dataset)
    ]
    return "\n\n\n".join(groups)


def _recipe_text(recipe: AnyRecipe) -> str:
    return "\n".join(
        (
            f"  {recipe.name}",
            *_wrapped(recipe.description, ""),
            *_wrapped(recipe.reproduces, "reproduces  "),
            *_wrapped(recipe.cost, "cost        "),
        )
    )


def _wrapped(text: str, label: str) -> list[str]:
    indent = " " * 4
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent + label,
        subsequent_indent=indent + " " * len(label),
        break_on_hyphens=False,
    )


def _natural(name: str) -> list[tuple[int, str]]:
    """Order names by the numbers in them: 5way before 20way."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
