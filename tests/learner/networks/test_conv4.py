import pytest
import torch
from torch.nn import functional

from kshot.bundle import NetworkSpec
from kshot.learner import Conv4, build_network, initial_parameters, layout_of, logits_of
from kshot.learner.networks.conv4 import Downsampling
from kshot.learner.networks.convolution import convolve, max_pool


def test_omniglot_form_has_the_papers_parameters_less_the_biases_before_batch_norm() -> None:
    network = Conv4((1, 28, 28))

    assert network.feature_count == 256
    assert layout_of(network, 5).size == 113_221 - 4 * 64


def test_mini_imagenet_form_has_the_papers_parameters_less_the_biases_before_batch_norm() -> None:
    """Sides 84, 42, 21, 11, 6: pooling rounds up, as TensorFlow's SAME does."""
    network = Conv4((3, 84, 84), filters=32, downsampling="max_pool")
    parameters = initial_parameters(network, 5, torch.Generator().manual_seed(0))

    logits, _ = logits_of(
        network,
        {name: value[None] for name, value in parameters.items()},
        torch.rand(1, 2, 3, 84, 84, generator=torch.Generator().manual_seed(0)),
    )

    assert network.feature_count == 32 * 6 * 6 == 1152
    assert layout_of(network, 5).size == 34_661 - 4 * 32
    assert logits.shape == (1, 2, 5)


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 21, 13), (3, 1, 2), (1, 17, 16)])
@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
def test_the_feature_count_is_that_of_the_features(
    shape: tuple[int, int, int], downsampling: Downsampling
) -> None:
    network = Conv4(shape, filters=2, downsampling=downsampling)
    parameters = initial_parameters(network, 5, torch.Generator().manual_seed(0))
    stacked = {name: value[None] for name, value in parameters.items()}

    features, _ = network.features(stacked, torch.zeros(1, 3, *shape), None)

    assert features.shape == (1, 3, network.feature_count)


def test_a_block_pools_what_batch_norm_gives() -> None:
    """The paper's order: convolution, batch norm, max-pooling, ReLU, written out for a block."""
    network = Conv4((2, 7, 5), filters=3, downsampling="max_pool")
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in initial_parameters(network, 2, generator).items()
    }
    images = torch.randn(4, 2, 7, 5, generator=generator, dtype=torch.float64)
    stacked = {name: value[None] for name, value in parameters.items()}

    features, _ = network.features(stacked, images[None], None)

    hidden = images
    for block in ("block1", "block2", "block3", "block4"):
        hidden = functional.conv2d(hidden, parameters[f"{block}.convolution.weight"], padding=1)
        hidden = functional.batch_norm(
            hidden,
            None,
            None,
            parameters[f"{block}.batch_norm.scale"],
            parameters[f"{block}.batch_norm.shift"],
            training=True,
            eps=1e-3,
        )
        odd = hidden.shape[3] % 2, hidden.shape[2] % 2
        hidden = functional.pad(hidden, (0, odd[0], 0, odd[1]), value=-torch.inf)
        hidden = functional.relu(functional.max_pool2d(hidden, 2))
    torch.testing.assert_close(features[0], hidden.flatten(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 1), (1, 4)])
def test_pooling_takes_the_greatest_there_is_of_negative_numbers_too(
    height: int, width: int
) -> None:
    """What lies beyond an odd side is no number, not zero."""
    generator = torch.Generator().manual_seed(0)
    inputs = -1 - torch.rand(2, 3, 4, height, width, generator=generator)

    pooled = max_pool(inputs)

    assert pooled.shape == (2, 3, 4, (height + 1) // 2, (width + 1) // 2)
    for i in range(pooled.shape[3]):
        for j in range(pooled.shape[4]):
            places = inputs[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert pooled[..., i, j].equal(places.amax(dim=(-2, -1)))


@pytest.mark.parametrize("side", [28, 14, 7, 4, 1])
def test_padding_is_tensorflows_same(side: int) -> None:
    """TensorFlow pads an even side by (0, 1) and an odd one by (1, 1) for stride 2, kernel 3."""
    image = torch.zeros(1, 1, 1, side, side)
    image[..., 0, 0] = 1
    kernel = torch.arange(9.0).reshape(1, 1, 1, 3, 3)

    outputs = convolve(image, kernel, stride=2)

    first_tap = kernel[0, 0, 0, 0, 0] if side % 2 == 0 else kernel[0, 0, 0, 1, 1]
    assert outputs.shape == (1, 1, 1, (side + 1) // 2, (side + 1) // 2)
    assert outputs[0, 0, 0, 0, 0] == first_tap


@pytest.mark.parametrize("stride", [1, 2])
def test_own_kernels_equal_one_convolution_a_task(stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 2, 9, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, 2, 3, 3, generator=generator, dtype=torch.float64)

    together = convolve(inputs, weight, stride)

    padding = (0, 1, 1, 1) if stride == 2 else (1, 1, 1, 1)
    alone = torch.stack(
        [
            functional.conv2d(functional.pad(inputs[t], padding), weight[t], stride=stride)
            for t in range(3)
        ]
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_frozen_statistics_in_the_convolution_equal_batch_norm_after_it() -> None:
    """One task folds its statistics; two, here twice the same, normalize layer by layer."""
    network = Conv4((3, 21, 30), filters=4)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: value.double()[None] + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in initial_parameters(network, 2, generator).items()
    }
    inputs = torch.rand(1, 5, 3, 21, 30, generator=generator, dtype=torch.float64)
    _, statistics = network.features(parameters, inputs, None)

    folded, used = network.features(parameters, inputs[:, :2], statistics)

    twice = {name: torch.cat([value, value]) for name, value in statistics.items()}
    layered, _ = network.features(parameters, inputs[:, :2], twice)
    assert used is statistics
    torch.testing.assert_close(folded, layered[:1], rtol=0, atol=1e-9)


def test_one_kernel_serves_all_tasks() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 2, 8, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(1, 5, 2, 3, 3, generator=generator, dtype=torch.float64)

    shared = convolve(inputs, weight, stride=2)

    own = convolve(inputs, weight.expand(3, -1, -1, -1, -1), stride=2)
    torch.testing.assert_close(shared, own, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (NetworkSpec("conv4", {"filters": 0}), "filters: expected .* got 0"),
        (
            NetworkSpec("conv4", {"filters": 64.5}),
            "filters: expected an integer .* got 64.5",
        ),
        (
            NetworkSpec("conv4", {"filters": True}),
            "filters: expected an integer .* got True",
        ),
        (
            NetworkSpec("conv4", {"downsampling": "mean_pool"}),
            "conv4 downsampling: expected stride or max_pool, got 'mean_pool'",
        ),
    ],
)
def test_arguments_without_sense_are_refused(spec: NetworkSpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_network(spec, (1, 28, 28), 1e-3)
