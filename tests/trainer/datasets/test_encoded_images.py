from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import torch

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    Bundle,
    EncoderSpec,
    Head,
    HeadPolicy,
    Manifest,
    NetworkSpec,
    Weights,
    write_bundle,
)
from kshot.trainer.bundling.packaging import draft_manifest
from kshot.trainer.datasets import encoded_images
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Recipe

CPU = torch.device("cpu")
STORED = BatchNormMode.STORED
ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
encode (float[n,1,28,28] images) => (float[n,49,1,1] encoded) {
    means = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(images)
    shape = Constant<value = int64[4] {-1, 49, 1, 1}>()
    encoded = Reshape(means, shape)
}"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kshot"


@pytest.fixture
def bundle(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset], tmp_path: Path
) -> Bundle:
    """A linear classifier of means of 4 x 4 pixels."""
    drafted: Manifest = draft_manifest(small_recipe(), patterns())
    manifest = replace(
        drafted,
        network=NetworkSpec("features", {"scale": 3.0}),
        encoder=EncoderSpec((49, 1, 1)),
        batch_norm=BatchNorm(STORED, (STORED,)),
        head=HeadPolicy(Head.PROTOTYPE, (Head.PROTOTYPE,)),
    )
    way = manifest.training.way
    parameters = {
        "head.weight": np.zeros((way, 49), np.float32),
        "head.bias": np.zeros(way, np.float32),
    }
    weights = Weights(parameters, parameters, step=0)
    encoder = onnx.parser.parse_model(ENCODER).SerializeToString()
    return write_bundle(tmp_path, manifest, weights, {STORED: b""}, "# e\n", encoder=encoder)


def means(dataset: ImageDataset) -> torch.Tensor:
    pooled = torch.nn.functional.avg_pool2d(dataset.images.double() / 255, 4)
    return pooled.flatten(1)[:, :, None, None].float()


def test_images_are_encoded_once(
    bundle: Bundle,
    patterns: Callable[..., ImageDataset],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, told = patterns(), list[tuple[int, int]]()
    rows = torch.tensor([[3, 0], [9, 55]])

    pixels = encoded_pixels(dataset, bundle, CPU, lambda done, total: told.append((done, total)))

    assert told[-1] == (56, 56)
    assert pixels.images.dtype is torch.float16
    taken = pixels.take(rows)
    assert taken.dtype is torch.float32
    torch.testing.assert_close(taken, means(dataset)[rows], rtol=1e-3, atol=0)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(encoded_images, "_encode", lambda *_: pytest.fail("encoded again"))
    assert encoded_pixels(dataset, bundle, CPU).images.equal(pixels.images)


def test_other_images_are_encoded_anew(
    bundle: Bundle, patterns: Callable[..., ImageDataset], cache: Path
) -> None:
    for seed in (0, 1):
        encoded_pixels(patterns(seed=seed), bundle, CPU)

    assert len(list(cache.iterdir())) == 2


def test_images_of_another_shape_are_refused(
    bundle: Bundle, patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    narrow = make_dataset(
        "narrow", dataset.images[..., :27], dataset.class_offsets, dataset.class_names
    )

    with pytest.raises(DataError, match=r"images of narrow: expected shape \(1, 28, 28\), got"):
        encoded_pixels(narrow, bundle, CPU)


def test_a_bundle_is_evaluated_behind_its_encoder(
    bundle: Bundle, patterns: Callable[..., ImageDataset]
) -> None:
    """The patterns differ in their means, and so class means of these tell them apart."""
    settings = EvaluationSettings(4, 2, 2, 10, STORED, step_count=0, seed=0)

    results = Evaluator.of_bundle(bundle, patterns(), CPU).evaluate(settings)

    assert results[STORED].accuracy == 1
