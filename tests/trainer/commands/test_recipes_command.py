import json
import tomllib

import pytest

from kshot.__main__ import main
from kshot.bundle.document import plain
from kshot.trainer.commands.recipes import WIDTH
from kshot.trainer.recipe.files import list_recipes, load_recipe, shipped_text
from kshot.trainer.recipe.parsing import parse_recipe
from kshot.trainer.recipe.recipe import recipe_digest

Capture = pytest.CaptureFixture[str]


def test_the_list_names_every_recipe_once(capsys: Capture) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= WIDTH
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert headings[:4] == ["cifar-fs", "mini-imagenet", "omniglot", "sine"]
    named = [line.strip() for line in lines if line.startswith("  ") and line[2] != " "]
    assert sorted(named) == list(list_recipes())
    assert named.index("omniglot-5way") < named.index("omniglot-20way")


def test_the_list_tells_results_and_costs(capsys: Capture) -> None:
    main(["recipes"])
    listed = " ".join(capsys.readouterr().out.split())

    for name in ("omniglot-20way", "mini-imagenet-5way-5shot-maml", "sine"):
        recipe = load_recipe(name)
        assert recipe.reproduces in listed
        assert recipe.cost in listed


def test_json_has_every_key_of_every_recipe(capsys: Capture) -> None:
    assert main(["recipes", "--json"]) == 0
    recipes = json.loads(capsys.readouterr().out)["recipes"]

    assert [recipe["name"] for recipe in recipes] == list(list_recipes())
    for document in recipes:
        recipe = load_recipe(document["name"])
        assert document.pop("digest") == recipe_digest(recipe)
        assert document == plain(recipe)


def test_a_named_recipe_is_printed_as_its_file(capsys: Capture) -> None:
    assert main(["recipes", "omniglot-5way"]) == 0
    text = capsys.readouterr().out

    assert text.startswith("# Nichol, Achiam, Schulman 2018")
    assert tomllib.loads(text)["outer"]["meta_iterations"] == 100_000


def test_a_named_recipe_is_one_document_of_json(capsys: Capture) -> None:
    assert main(["recipes", "sine", "--json"]) == 0

    (document,) = json.loads(capsys.readouterr().out)["recipes"]
    assert (document["name"], document["task"]["grid_count"]) == ("sine", 50)


def test_an_unknown_recipe_is_refused(capsys: Capture) -> None:
    assert main(["recipes", "omniglot-6way"]) == 2
    assert "recipe: expected one of " in capsys.readouterr().err


@pytest.mark.parametrize("name", list_recipes())
def test_what_is_printed_makes_the_same_recipe(name: str) -> None:
    printed = tomllib.loads(shipped_text(name))

    assert parse_recipe(printed, name) == load_recipe(name)
    assert printed["name"] == name
