from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kshot.bundle import (
    COMPUTED_MODES,
    BundleError,
    Manifest,
    load_bundle,
    parse_manifest,
)
from kshot.bundle.schema import manifest_document
from kshot.learner import Initialization
from kshot.trainer.bundling.card import model_card
from kshot.trainer.bundling.packaging import draft_manifest, finished_bundle, pack_bundle
from kshot.trainer.bundling.training_words import training_words
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import TrainingError
from kshot.trainer.recipe.recipe import Recipe, recipe_digest

Recipes = Callable[..., Recipe]
Patterns = Callable[..., ImageDataset]
Initializations = Callable[[Manifest], Initialization]


def test_a_manifest_is_drafted_from_the_recipe(small_recipe: Recipes, patterns: Patterns) -> None:
    recipe, dataset = small_recipe(), patterns()
    manifest = draft_manifest(recipe, dataset)

    provenance = manifest.provenance
    assert (provenance.recipe, provenance.recipe_digest) == (recipe.name, recipe_digest(recipe))
    assert (provenance.algorithm, provenance.meta_iterations) == ("reptile", 6)
    assert provenance.data_digest == dataset.digest
    assert {"python", "torch", "onnx", "numpy"} <= set(provenance.library_versions)
    assert parse_manifest(manifest_document(manifest)) == manifest


@pytest.mark.usefixtures("small_bundle")
def test_a_bundle_is_packed(
    small_recipe: Recipes,
    patterns: Patterns,
    make_initialization: Initializations,
    tmp_path: Path,
) -> None:
    dataset = patterns()
    recipe = small_recipe()
    manifest = draft_manifest(recipe, dataset)
    initialization = make_initialization(manifest)
    assert finished_bundle(tmp_path, manifest) is None

    folder = pack_bundle(tmp_path, manifest, initialization, recipe, dataset)

    assert folder == tmp_path / "omniglot" / "1"
    assert finished_bundle(tmp_path, manifest) == folder
    bundle = load_bundle(folder)
    weights = bundle.read_weights()
    for kept, given in (
        (weights.parameters, initialization.parameters),
        (weights.second_moment, initialization.second_moment),
    ):
        assert set(kept) == set(given)
        for name, value in given.items():
            np.testing.assert_array_equal(kept[name], value.numpy())
    assert weights.step == 42
    for mode in COMPUTED_MODES:
        assert bundle.template_path(mode).read_bytes() == mode.value.encode()
    words = training_words(bundle.manifest, recipe, dataset)
    assert (folder / "README.md").read_text() == model_card(words, bundle.manifest)

    with pytest.raises(BundleError, match="exists already"):
        pack_bundle(tmp_path, manifest, initialization, recipe, dataset)
    assert load_bundle(folder).digest == bundle.digest
    other = draft_manifest(small_recipe("inner.step_count=3"), dataset)
    with pytest.raises(TrainingError, match="is the bundle of another training"):
        finished_bundle(tmp_path, other)
