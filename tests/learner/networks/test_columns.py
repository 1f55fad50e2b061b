from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from kshot.learner import Conv4, initial_parameters
from kshot.learner.networks.columns import convolve_columns
from kshot.learner.networks.conv4 import Downsampling

PADDINGS = {"even": (0, 1), "odd": (1, 1)}


@pytest.mark.parametrize("kernel_count", [3, 1])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (8, 5), (1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (2, 3)])
def test_columns_equal_the_direct_convolution_and_its_gradients(
    kernel_count: int, height: int, width: int, kernel: int, stride: int
) -> None:
    """Own kernels and one kernel for three tasks, even and odd sides, down to a single place."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 2, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(
        kernel_count, 5, 2, kernel, kernel, generator=generator, dtype=torch.float64
    )
    left, right = PADDINGS["even" if width % 2 == 0 else "odd"]
    padding = (left, right, *PADDINGS["even" if height % 2 == 0 else "odd"])
    inputs.requires_grad_()
    weight.requires_grad_()

    outputs = convolve_columns(inputs, weight, stride, padding)

    reference = torch.stack(
        [
            functional.conv2d(
                functional.pad(inputs[task], padding),
                weight[task % kernel_count],
                stride=stride,
            )
            for task in range(3)
        ]
    )
    torch.testing.assert_close(outputs, reference, rtol=0, atol=1e-12)
    upstream = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(outputs, (inputs, weight), upstream)
    references = torch.autograd.grad(reference, (inputs, weight), upstream)
    for gradient, expected in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_second_derivatives_are_refused_not_wrong() -> None:
    inputs = torch.rand(1, 2, 1, 4, 4)
    weight = torch.rand(1, 3, 1, 3, 3, requires_grad=True)
    outputs = convolve_columns(inputs, weight, 1, (1, 1, 1, 1))

    with pytest.raises(RuntimeError, match="has no second derivatives"):
        torch.autograd.grad(outputs.square().sum(), weight, create_graph=True)


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 21, 30), (1, 5, 4)])
def test_every_form_of_a_network_is_the_same_function(
    device: str, shape: tuple[int, int, int], downsampling: Downsampling
) -> None:
    """Computed here, in the form that is meant for the device and in columns."""
    network = Conv4(shape, filters=4, downsampling=downsampling)
    generator = torch.Generator().manual_seed(0)
    drawn = [initial_parameters(network, 2, generator) for _ in range(2)]
    parameters = {name: torch.stack([d[name].double() for d in drawn]) for name in drawn[0]}
    inputs = torch.rand(2, 5, *shape, generator=generator, dtype=torch.float64)

    for form in (network.tuned(device), replace(network, column_blocks=(1, 2, 3, 4))):
        features, statistics = form.features(parameters, inputs, None)

        expected, expected_statistics = network.features(parameters, inputs, None)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-12)
        for name, value in expected_statistics.items():
            torch.testing.assert_close(statistics[name], value, rtol=0, atol=1e-12)


def test_the_tuned_form_is_columns_where_convolutions_stride() -> None:
    strided, pooled = (
        Conv4((1, 8, 8), downsampling=form).tuned("cpu") for form in ("stride", "max_pool")
    )

    assert (strided.column_blocks, pooled.column_blocks) == ((1, 2, 3, 4), ())


@pytest.mark.parametrize("blocks", [(0,), (5,), (1, 9)])
def test_blocks_that_do_not_exist_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"column_blocks: expected blocks of 1\.\.4"):
        Conv4((1, 8, 8), column_blocks=blocks)
