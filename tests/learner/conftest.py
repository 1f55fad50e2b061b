from collections.abc import Callable

import pytest
import torch

from kshot.bundle import Head, Preconditioner
from kshot.learner import (
    Conv4,
    Initialization,
    LoopState,
    initial_parameters,
    start_state,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def network() -> Conv4:
    return Conv4((1, 12, 12), filters=6)


@pytest.fixture
def initialization(network: Conv4) -> Initialization:
    """Random weights in float64 with a positive v, as after some training."""
    generator = torch.Generator().manual_seed(7)
    parameters = {
        name: value.double() + 0.05 * torch.randn(value.shape, generator=generator).double()
        for name, value in initial_parameters(network, 5, generator).items()
    }
    second_moment = {
        name: 1e-4 * (0.1 + torch.rand(value.shape, generator=generator).double())
        for name, value in parameters.items()
    }
    return Initialization(network, 5, parameters, second_moment, 250_000)


@pytest.fixture
def support() -> tuple[torch.Tensor, torch.Tensor]:
    """A 5-way 2-shot support set ``(10, 1, 12, 12)`` in float64 and its classes."""
    generator = torch.Generator().manual_seed(11)
    images = torch.rand(10, 1, 12, 12, generator=generator, dtype=torch.float64)
    return images, torch.arange(5).repeat_interleave(2)


@pytest.fixture
def start(initialization: Initialization) -> Callable[[Preconditioner], LoopState]:
    return lambda preconditioner: start_state(
        initialization, 5, head=Head.TRAINED, preconditioner=preconditioner
    )
