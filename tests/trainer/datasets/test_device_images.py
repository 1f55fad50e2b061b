from collections.abc import Callable

import numpy as np
import pytest
import torch

from kshot.bundle import InputSpec, Normalize, Resize, Rgb, prepare
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.device_images import DevicePixels, to_device
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.recipe import Recipe

CPU = torch.device("cpu")


def test_pixels_are_the_very_numbers_that_serving_prepares(
    small_recipe: Callable[..., Recipe],
) -> None:
    """All 256 values: a factor rounded to float32 before it is applied misses half of them."""
    spec = small_recipe().input
    images = torch.arange(2 * 784).remainder(256).to(torch.uint8).reshape(2, 1, 28, 28)
    dataset = make_dataset("values", images, torch.tensor([0, 2]), ("class",))
    pixels = DevicePixels.load(dataset, spec, CPU)

    taken = pixels.take(torch.tensor([[1, 0], [0, 1]]))

    wanted = prepare(images[:, 0].numpy(), spec)
    assert taken.dtype == torch.float32
    assert taken.shape == (2, 2, 1, 28, 28)
    np.testing.assert_array_equal(taken[0].numpy(), wanted[[1, 0]])
    np.testing.assert_array_equal(taken[1].numpy(), wanted)


def test_normalized_pixels_are_those_that_serving_prepares() -> None:
    steps = (Rgb(), Resize(8, 8, "box"), Normalize((127.0, 0.3, 9.0), (128.0, 3.0, 0.7)))
    spec = InputSpec((3, 8, 8), steps)
    images = torch.arange(2 * 192).remainder(256).to(torch.uint8).reshape(2, 3, 8, 8)
    dataset = make_dataset("values", images, torch.tensor([0, 2]), ("class",))

    taken = DevicePixels.load(dataset, spec, CPU).take(torch.tensor([[1, 0]]))

    wanted = prepare(images.permute(0, 2, 3, 1).numpy(), spec)
    np.testing.assert_array_equal(taken[0].numpy(), wanted[[1, 0]])


def test_images_of_another_shape_are_refused(
    small_recipe: Callable[..., Recipe], patterns: Callable[..., ImageDataset]
) -> None:
    dataset = patterns()
    narrow = make_dataset(
        "narrow", dataset.images[..., :27], dataset.class_offsets, dataset.class_names
    )

    with pytest.raises(
        DataError, match=r"images of narrow: expected shape \(1, 28, 28\), got \(1, 28, 27\)"
    ):
        DevicePixels.load(narrow, small_recipe().input, CPU)


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
            ],
        ),
    ],
)
def test_tensors_of_any_strides_come_to_a_device(name: str) -> None:
    """Labels are the same for every task, and expanded over them."""
    table = torch.arange(12).reshape(3, 4)
    for tensor in (table, table.T, table[0].expand(5, -1), table[:, :0]):
        moved = to_device(tensor, torch.device(name))

        assert moved.device.type == name
        assert torch.equal(moved.cpu(), tensor)
