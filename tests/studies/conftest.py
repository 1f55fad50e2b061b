"""Small bundles, of patterns in the place of all data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.bundle import BatchNormMode
from kshot.learner import Initialization, Network, build_network, initial_parameters
from kshot.trainer.bundling import packaging
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets import registry as datasets
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.recipe.files import load_image_recipe

PackSmall = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def patterns(monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """Eight classes of coarse patterns with a little noise, in the place of every data set."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 1, 7, 7, generator=generator).round() * 200
    clean = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    noise = torch.rand(8, 16, 28, 28, generator=generator) * 55
    images = (clean + noise).to(torch.uint8).reshape(-1, 1, 28, 28)
    names = tuple(f"pattern{number}" for number in range(8))
    dataset = make_dataset("patterns", images, torch.arange(9) * 16, names)
    in_place = dict.fromkeys(datasets.DATASETS, lambda *_, **__: dataset)
    monkeypatch.setattr(datasets, "DATASETS", in_place)
    return dataset


@pytest.fixture
def pack_small(
    patterns: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PackSmall:
    """Return a function from a recipe and settings to an untrained bundle of it, of 4 filters.

    A keyword names what to replace in its manifest; its templates are the names of their modes.
    """

    def name_mode(_network: Network, mode: BatchNormMode) -> bytes:
        return mode.value.encode()

    def pack(recipe: str = "omniglot-5way", *settings: str, **changes: object) -> Path:
        loaded = load_image_recipe(recipe, ("network.arguments.filters=4", *settings))
        # replace()'s types know nothing of names that come from outside
        manifest = replace(draft_manifest(loaded, patterns), **changes)  # type: ignore[arg-type]
        network = build_network(manifest.network, manifest.input.shape, manifest.batch_norm.epsilon)
        generator = torch.Generator().manual_seed(0)
        parameters = initial_parameters(network, manifest.training.way, generator)
        moment = {name: value.square() for name, value in parameters.items()}
        start = Initialization(network, manifest.training.way, parameters, moment, 42)
        folder = tmp_path / f"bundle{len(list(tmp_path.glob('bundle*')))}"
        return pack_bundle(folder, manifest, start, loaded, patterns)

    monkeypatch.setattr(packaging, "build_template", name_mode)
    return pack
