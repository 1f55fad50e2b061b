"""Counting an adaptation's arithmetic, and measuring the rate of products."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from kshot.bench.speed.arithmetic_floor import (
    MATRIX_SIDE,
    conv4_multiply_adds,
    gflop_per_second,
    matrix_products,
    step_flop,
)
from kshot.bench.speed.plain_loop import PlainConv4
from kshot.learner import Conv4


def test_a_tiny_network_is_counted_by_hand() -> None:
    """4x4 pixels become 2x2, then 1x1 for the rest; two filters; two features; three classes."""
    counts = conv4_multiply_adds(Conv4((1, 4, 4), filters=2), way=3)

    assert counts == (8 * 9, 2 * 18, 2 * 18, 2 * 18, 3 * 2)
    # forward 72 + 36 + 36 + 36 + 6 = 186; three times that without the first layer's 72 once
    assert step_flop(counts, batch_size=5) == 2 * 5 * (3 * 186 - 72)


@pytest.mark.parametrize(("shape", "way"), [((1, 28, 28), 5), ((3, 84, 83), 20)])
def test_torch_counts_the_same(shape: tuple[int, int, int], way: int) -> None:
    images, classes = torch.rand(7, *shape), torch.arange(7) % way
    model = PlainConv4(shape, 16, way)

    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(model(images), classes).backward()

    counted = step_flop(conv4_multiply_adds(Conv4(shape, filters=16), way), batch_size=7)
    assert counted == counter.get_total_flops()


def test_the_rate_is_of_the_fastest_product() -> None:
    assert gflop_per_second([40.0, 20.0, 30.0]) == pytest.approx(2 * MATRIX_SIDE**3 / 20e6)


def test_the_products_are_matrix_products() -> None:
    products = matrix_products(torch.device("cpu"))

    with FlopCounterMode(display=False) as counter:
        products["mm"]()

    assert counter.get_total_flops() == 2 * MATRIX_SIDE**3
    assert set(products) == {"mm", "onednn"}
    products["onednn"]()
