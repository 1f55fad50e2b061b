from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import Manifest
from kshot.trainer.datasets import registry as datasets
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.reader import PartRequest
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Data


def read_stripes(request: PartRequest) -> ImageDataset:
    """Stand for a reader: two classes of one image."""
    images = torch.arange(2 * 28 * 28, dtype=torch.uint8).reshape(2, 1, 28, 28)
    return make_dataset(
        f"{request.data.dataset} {request.part}", images, torch.arange(3), ("a", "b"), "c" * 64
    )


@pytest.fixture(autouse=True)
def stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DATASETS", {"stripes": read_stripes})


def test_rotations_are_of_the_training_classes_alone(manifest: Manifest, tmp_path: Path) -> None:
    counts = [
        read_dataset(
            Data("stripes", "all", rotations), tmp_path, part, input_spec=manifest.input
        ).class_count
        for part in ("train", "val", "test")
        for rotations in (False, True)
    ]

    assert counts == [2, 8, 2, 2, 2, 2]


def test_rotations_leave_the_split_what_it_is(manifest: Manifest, tmp_path: Path) -> None:
    data = Data("stripes", "all", rotations=True)

    assert read_dataset(data, tmp_path, "train", input_spec=manifest.input).split_digest == "c" * 64


def test_an_unknown_data_set_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data set: expected one of stripes, got 'cifar'$"):
        data = Data("cifar", "reptile", rotations=False)
        read_dataset(data, tmp_path, "test", input_spec=manifest.input)


def test_a_folder_beside_a_data_set_of_its_own_place_is_refused(
    manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"data.folder: only data set folder has one, got 'birds' with stripes"
    ):
        data = Data("stripes", "all", rotations=False, folder="birds")
        read_dataset(data, tmp_path, "test", input_spec=manifest.input)


def test_a_bundles_data_are_found_by_their_names_or_by_the_splits_digest(
    manifest: Manifest,
) -> None:
    """Bundles of early builds have no names."""
    digest = "b468b8c85e5e8607e4cc7c577e5320581f5eaf615dc61702563d5ae748d841c0"
    old = replace(manifest.provenance, split_digest=digest)
    new = replace(old, dataset="folder", split="parts", folder="birds")

    assert data_of(old) == Data("omniglot", "reptile", rotations=False)
    assert data_of(new) == Data("folder", "parts", rotations=False, folder="birds")
    with pytest.raises(DataError, match=r"digest 0{64}, expected that of .*: reptile, vinyals"):
        data_of(replace(old, split_digest="0" * 64))
