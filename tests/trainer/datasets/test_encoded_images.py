import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kshot.bundle import (
    BatchNormMode,
    Bundle,
)
from kshot.trainer.datasets import encoded_images
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.errors import DataError
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings

CPU = torch.device("cpu")
STORED = BatchNormMode.STORED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kshot"


@pytest.fixture
def bundle(encoder_bundle: Bundle) -> Bundle:
    return encoder_bundle


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


def test_without_a_runtime_the_extra_is_named(
    bundle: Bundle, patterns: Callable[..., ImageDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(DataError, match=r"encoder\.onnx: an encoder needs 'onnxruntime'"):
        encoded_pixels(patterns(), bundle, CPU)
