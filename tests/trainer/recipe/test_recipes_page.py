"""docs/recipes.md against the recipes, and the example that it sends people to."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.bundle import load_bundle
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineEvaluation, SineTask

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
EXAMPLE = ROOT / "examples" / "own-images.toml"


def keys_of(kind: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that a recipe has; what lists hold is named by the list."""
    hints = get_type_hints(kind)
    for name in (field.name for field in fields(kind)):
        key, hint = f"{prefix}{name}", hints[name]
        if is_dataclass(hint) and get_origin(hint) not in (types.UnionType, Mapping):
            yield from keys_of(hint, f"{key}.")
        else:
            yield key


@pytest.mark.parametrize("name", list_recipes())
def test_the_page_has_a_row_for_every_recipe(name: str) -> None:
    recipe = load_recipe(name)
    hours = recipe.cost.split(": ")[1].removesuffix(" on one CPU core")

    row = f"| `{name}` | {recipe.reproduces} | {recipe.outer.meta_iterations:,} | {hours} |"
    assert row in PAGE.splitlines()


def test_the_page_explains_every_key() -> None:
    keys = [*keys_of(Recipe), *keys_of(SineTask, "task."), *keys_of(SineEvaluation, "evaluation.")]

    assert "serving.limits.max_way" in keys
    assert [key for key in keys if f"`{key}`" not in PAGE] == []


def test_the_example_is_mini_imagenets_recipe_on_a_folder() -> None:
    example, paper = load_image_recipe(str(EXAMPLE)), load_image_recipe("mini-imagenet-5way")

    assert (example.data.dataset, example.data.folder) == ("folder", "my-images")
    for part in ("network", "batch_norm", "task", "inner"):
        assert getattr(example, part) == getattr(paper, part)


@pytest.mark.usefixtures("small_bundle")
def test_the_example_trains_on_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(10):
        folder = tmp_path / "my-images" / f"class {number}"
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = generator.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    settings = (
        "network.arguments.filters=4",
        "task.way=2",  # as many classes as the split has for tests
        "task.shot=3",
        "inner.step_count=2",
        "outer.meta_iterations=2",
        "outer.meta_batch_size=2",
        "evaluation.way=2",
        "evaluation.step_count=2",
        "evaluation.task_count=2",
        "evaluation.table.shots=[1]",
        "evaluation.table.task_count=2",
        "evaluation.table.step_count=1",
    )
    words = [word for setting in settings for word in ("--set", setting)]

    out = tmp_path / "own"
    command = ["train", str(EXAMPLE), "--data", str(tmp_path), "--out", str(out), "--no-compile"]
    assert main([*command, *words]) == 0
    printed = Path(capsys.readouterr().out.strip())
    assert printed == out / "own-images" / "1"
    provenance = load_bundle(printed).manifest.provenance
    assert (provenance.dataset, provenance.folder) == ("folder", "my-images")
