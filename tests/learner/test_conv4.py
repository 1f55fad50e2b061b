import pytest
import torch
from torch.nn import functional

from kshot.bundle import NetworkSpec
from kshot.learner import Conv4, build_network, initial_parameters, layout_of
from kshot.learner.convolution import convolve


def test_omniglot_form_has_the_papers_parameters_less_the_biases_before_batch_norm() -> None:
    network = Conv4((1, 28, 28))

    assert network.feature_count == 256
    assert layout_of(network, 5).size == 113_221 - 4 * 64


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


def test_own_kernels_equal_one_convolution_a_task() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 2, 9, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, 2, 3, 3, generator=generator, dtype=torch.float64)

    together = convolve(inputs, weight, stride=2)

    alone = torch.stack(
        [
            functional.conv2d(functional.pad(inputs[t], (0, 1, 1, 1)), weight[t], stride=2)
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
        (NetworkSpec("conv5", {}), "network 'conv5' is unknown; known: conv4"),
        (NetworkSpec("conv4", {"depth": 3}), "does not take these arguments"),
        (NetworkSpec("conv4", {"filters": 0}), "filters is 0, wanted an integer of at least 1"),
        (NetworkSpec("conv4", {"filters": 64.5}), "filters is 64.5, wanted an integer"),
        (NetworkSpec("conv4", {"filters": True}), "filters is True, wanted an integer"),
    ],
)
def test_a_network_that_does_not_exist_is_refused(spec: NetworkSpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_network(spec, (1, 28, 28), 1e-3)
