"""Trainings that start from a bundle: they go on from its weights and keep its encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.loop.image_run import image_training, train
from kshot.trainer.recipe.differences import recipe_words
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe

CPU = torch.device("cpu")
Patterns = Callable[..., ImageDataset]
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def started(encoder_bundle: Bundle, small_settings: tuple[str, ...]) -> MakeRecipe:
    """Make a small recipe that starts from the bundle with an encoder."""

    def make(*settings: str) -> Recipe:
        start = str(encoder_bundle.path)
        recipe = load_recipe("omniglot-5way", (*small_settings, *settings), start)
        assert isinstance(recipe, Recipe)
        return recipe

    return make


def test_a_training_keeps_the_encoder(
    started: MakeRecipe, encoder_bundle: Bundle, patterns: Patterns, tmp_path: Path
) -> None:
    """Episodes are drawn from encoded images; the result is a bundle of the same encoder."""
    recipe = started()
    heard: list[object] = []

    folder = train(
        recipe,
        patterns(),
        patterns(seed=1),
        tmp_path / "out",
        resume=False,
        device=CPU,
        compiled=False,
        report=heard.append,
    )

    bundle = load_bundle(folder)
    assert bundle.encoder_digest == encoder_bundle.encoder_digest
    assert bundle.manifest.network == encoder_bundle.manifest.network
    assert bundle.manifest.network_input_shape == (49, 1, 1)
    assert bundle.manifest.evaluation
    weights = bundle.read_weights()
    assert weights.parameters["head.weight"].shape == (3, 49)
    assert np.abs(weights.parameters["head.weight"]).max() > 0
    card = (folder / "README.md").read_text()
    assert f"(`{encoder_bundle.digest}`) behind its encoder" in card
    assert f"kshot train omniglot-5way --start {encoder_bundle.path} --set" in card
    assert heard


def test_a_training_goes_on_from_the_weights(patterns: Patterns) -> None:
    """Also of a bundle without an encoder, with its second moment and its step."""
    small = ("task.way=3", "task.shot=2", "evaluation.way=3")
    recipe = load_recipe("omniglot-5way", small, "omniglot")
    assert isinstance(recipe, Recipe)
    dataset = patterns()

    training = image_training(recipe, draft_manifest(recipe, dataset), dataset, dataset, CPU)

    first = training.initialization(training.first)
    wanted = Initialization.from_bundle(load_bundle(builtin_bundle("omniglot")), CPU)
    assert first.step == wanted.step > 0
    for name, value in wanted.parameters.items():
        rows = slice(3) if name.startswith("head.") else slice(None)
        assert first.parameters[name].equal(value[rows])
        assert first.second_moment[name].equal(wanted.second_moment[name][rows])


def test_the_digest_of_the_bundle_is_part_of_the_recipe(
    started: MakeRecipe, encoder_bundle: Bundle
) -> None:
    recipe = started()

    assert recipe.start is not None
    assert recipe.start.digest == encoder_bundle.digest
    assert recipe.input_shape == (49, 1, 1)
    words = recipe_words(recipe)
    assert words is not None
    assert words[:3] == ["omniglot-5way", "--start", str(encoder_bundle.path)]
    assert not any(word.startswith(("start", "network", "input")) for word in words)


def test_encoded_images_cannot_be_changed(started: MakeRecipe) -> None:
    changes = "augmentation={flip=true, shift=0.1, rotation_degrees=0, scale=0}"

    with pytest.raises(RecipeError, match="augmentation: expected no such key: images are encoded"):
        started(changes)


def test_a_recipe_with_changes_starts_from_an_encoder_without_them(encoder_bundle: Bundle) -> None:
    start = str(encoder_bundle.path)
    with pytest.raises(RecipeError, match=r"leave it out \(--set augmentation=\)"):
        load_recipe("drawings", (), start)

    recipe = load_recipe("drawings", ("augmentation=",), start)

    words = ["drawings", "--start", start, "--set", "augmentation="]
    assert recipe_words(recipe) == words


def test_a_start_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"start\.bundle: there is no folder nothing"):
        load_recipe("omniglot-5way", (), "nothing")
    with pytest.raises(RecipeError, match=r"start\.bundle: expected the name or folder"):
        load_recipe("omniglot-5way", ("start=3",))
