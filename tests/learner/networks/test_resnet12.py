import pytest
import torch
from torch.nn import functional

from kshot.bundle import NetworkSpec
from kshot.learner import Resnet12, build_network, initial_parameters, layout_of


def test_the_widths_are_those_of_the_literature() -> None:
    """Convolutions 3x3 and 1x1 of widths 64 to 512, two numbers a channel for each batch norm."""
    network = Resnet12((3, 84, 84))

    widths, channels, body = (64, 128, 256, 512), 3, 0
    for width in widths:
        body += 9 * channels * width + 2 * 9 * width * width + channels * width + 4 * 2 * width
        channels = width
    assert body == 7_996_800
    assert network.feature_count == 512
    assert layout_of(network, 5).size == body + 5 * 512 + 5


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 84, 84), (3, 33, 47)])
def test_images_of_any_size_give_one_feature_for_each_filter(shape: tuple[int, int, int]) -> None:
    network = Resnet12(shape, filters=2)
    parameters = initial_parameters(network, 5, torch.Generator().manual_seed(0))
    stacked = {name: value[None] for name, value in parameters.items()}

    features, _ = network.features(stacked, torch.zeros(1, 2, *shape), None)

    assert features.shape == (1, 2, 16)


def test_a_block_adds_its_shortcut_to_three_convolutions() -> None:
    """The whole network written out with the library's functions, in float64."""
    network = Resnet12((2, 9, 6), filters=2)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in initial_parameters(network, 2, generator).items()
    }
    images = torch.randn(4, 2, 9, 6, generator=generator, dtype=torch.float64)
    stacked = {name: value[None] for name, value in parameters.items()}

    features, _ = network.features(stacked, images[None], None)

    def layer(name: str, hidden: torch.Tensor) -> torch.Tensor:
        weight = parameters[f"{name}.convolution.weight"]
        scale, shift = (parameters[f"{name}.batch_norm.{part}"] for part in ("scale", "shift"))
        hidden = functional.conv2d(hidden, weight, padding="same")
        return functional.batch_norm(hidden, None, None, scale, shift, training=True, eps=1e-3)

    hidden = images
    for block in ("block1", "block2", "block3", "block4"):
        beside = layer(f"{block}.shortcut", hidden)
        hidden = functional.leaky_relu(layer(f"{block}.layer1", hidden), 0.1)
        hidden = functional.leaky_relu(layer(f"{block}.layer2", hidden), 0.1)
        hidden = functional.leaky_relu(layer(f"{block}.layer3", hidden) + beside, 0.1)
        odd = hidden.shape[3] % 2, hidden.shape[2] % 2
        hidden = functional.pad(hidden, (0, odd[0], 0, odd[1]), value=-torch.inf)
        hidden = functional.max_pool2d(hidden, 2)
    torch.testing.assert_close(features[0], hidden.mean(dim=(2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("filters", [0, 64.5, True])
def test_filters_without_sense_are_refused(filters: float) -> None:
    with pytest.raises(ValueError, match=f"filters: expected an integer .* got {filters}"):
        build_network(NetworkSpec("resnet12", {"filters": filters}), (3, 28, 28), 1e-3)
