"""A lower bound of an adaptation's time: its arithmetic at the rate of matrix products."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from kshot.bench.speed.timing import synchronized
from kshot.learner import Conv4

MATRIX_SIDE = 1024


def conv4_multiply_adds(network: Conv4, way: int) -> tuple[int, ...]:
    """Return the multiply-adds of one example in each convolution and the head for `way` classes.

    Batch norm, ReLU, loss and optimizer are left out: they are a few per cent.
    """
    _, height, width = network.input_shape
    counts = []
    for name, shape in network.body_shapes.items():
        if name.endswith("convolution.weight"):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            counts.append(height * width * math.prod(shape))
    return (*counts, way * network.feature_count)


def step_flop(multiply_adds: Sequence[int], batch_size: int) -> int:
    """Count an inner step's floating-point operations: two for each layer's multiply-add.

    In each layer, forward, weight gradients and input gradients cost the same; the first layer
    needs no input gradient.
    """
    return 2 * batch_size * (3 * sum(multiply_adds) - multiply_adds[0])


def matrix_products(device: torch.device) -> dict[str, Callable[[], object]]:
    """Make float32 products of two square matrices, which measure the machine's rate.

    On a CPU torch has two libraries for them, and either may be much faster than the other: `mm`
    is torch's choice, `onednn` computes its convolutions.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.rand(MATRIX_SIDE, MATRIX_SIDE, generator=generator).to(device) for _ in range(2)
    )
    product = torch.empty_like(left)

    multiply = synchronized(lambda: torch.mm(left, right, out=product), device)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return {"mm": multiply}
    blocked_left, blocked_right = left.to_mkldnn(), right.to_mkldnn()

    def multiply_blocked() -> None:
        with torch.no_grad():
            functional.linear(blocked_left, blocked_right)

    return {"mm": multiply, "onednn": multiply_blocked}


def gflop_per_second(products_ms: Sequence[float]) -> float:
    """Return the rate of the fastest of some matrix products, in 10^9 operations a second."""
    return 2 * MATRIX_SIDE**3 / min(products_ms) / 1e6
