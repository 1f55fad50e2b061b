from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.bundle import BatchNormMode, BundleError, Manifest, load_bundle, parse_manifest
from kshot.bundle.schema import manifest_document
from kshot.learner import Initialization, build_network, initial_parameters
from kshot.trainer import packaging
from kshot.trainer.card import model_card
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluation import EvaluationSettings, evaluate_bundle
from kshot.trainer.packaging import check_table, draft_manifest, find_bundle, pack_bundle
from kshot.trainer.recipe import Recipe, recipe_digest

Recipes = Callable[..., Recipe]
Patterns = Callable[..., ImageDataset]


def make_initialization(manifest: Manifest) -> Initialization:
    network = build_network(manifest.network, manifest.input.shape, manifest.batch_norm.epsilon)
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(network, manifest.training.way, generator)
    moment = {name: value.square() for name, value in parameters.items()}
    return Initialization(network, manifest.training.way, parameters, moment, 42)


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
def test_a_bundle_is_packed_with_its_table(
    small_recipe: Recipes, patterns: Patterns, tmp_path: Path
) -> None:
    dataset = patterns()
    manifest = draft_manifest(small_recipe(), dataset)
    initialization = make_initialization(manifest)
    reports: list[tuple[int, int]] = []
    assert find_bundle(tmp_path, manifest) is None

    folder = pack_bundle(
        tmp_path,
        manifest,
        initialization,
        dataset,
        lambda done, total: reports.append((done, total)),
    )

    assert folder == tmp_path / "omniglot" / "1"
    assert find_bundle(tmp_path, manifest) == folder
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
    for mode in BatchNormMode:
        assert bundle.template_path(mode).read_bytes() == mode.value.encode()
    assert (folder / "README.md").read_text() == model_card(bundle.manifest)
    assert reports == [(done, 8) for done in range(1, 9)]

    rows = bundle.manifest.evaluation
    assert [(row.shot, row.step_count) for row in rows[::3]] == [(1, 3), (1, 10), (5, 3), (5, 10)]
    assert {row.batch_norm_mode for row in rows} == set(BatchNormMode)
    assert all((row.way, row.query_count, row.task_count) == (3, 1, 2) for row in rows)
    last = rows[-1]
    settings = EvaluationSettings(3, 5, 1, 2, last.batch_norm_mode, step_count=10)
    again = evaluate_bundle(bundle, dataset, settings, device=torch.device("cpu"))
    assert (again.accuracy, again.ci95) == (last.accuracy, last.ci95)

    with pytest.raises(BundleError, match="exists already"):
        pack_bundle(tmp_path, manifest, initialization, dataset)
    assert load_bundle(folder).digest == bundle.digest
    other = draft_manifest(small_recipe("inner.step_count=3"), dataset)
    with pytest.raises(TrainingError, match="is another training's bundle"):
        find_bundle(tmp_path, other)


@pytest.mark.usefixtures("small_bundle")
def test_a_step_count_that_is_the_tables_own_is_measured_once(
    small_recipe: Recipes,
    patterns: Patterns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaging, "TABLE_STEP_COUNT", 10)
    manifest = draft_manifest(small_recipe(), patterns())

    folder = pack_bundle(tmp_path, manifest, make_initialization(manifest), patterns())

    assert len(load_bundle(folder).manifest.evaluation) == 2 * 3


def test_a_table_wants_enough_images(small_recipe: Recipes, patterns: Patterns) -> None:
    manifest = draft_manifest(small_recipe(), patterns())
    check_table(manifest, patterns(class_count=3, image_count=6))

    with pytest.raises(DataError, match="5 support and 1 query"):
        check_table(manifest, patterns(image_count=5))
    with pytest.raises(DataError, match="way is 3, wanted at most the 2 classes"):
        check_table(manifest, patterns(class_count=2))
