from collections.abc import Callable

import pytest
import torch

from kshot.bundle import Head, NetworkSpec, Preconditioner, Scope
from kshot.learner import (
    Conv4,
    Initialization,
    LoopState,
    StepSpec,
    build_network,
    initial_parameters,
    start_state,
)

ArgumentsOf = Callable[[StepSpec, torch.dtype], list[torch.Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> Conv4:
    return Conv4((1, 12, 12), filters=6)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def spec() -> StepSpec:
    """A step that compiles fast."""
    return StepSpec(
        network=NetworkSpec("conv4", {"filters": 4}),
        input_shape=(1, 8, 8),
        batch_norm_epsilon=1e-3,
        way=4,
        batch_size=6,
        updates_second_moment=True,
        second_moment_decay=0.999,
        epsilon=1e-8,
        scope=Scope.ALL,
    )


@pytest.fixture(scope="session")
def arguments_of() -> ArgumentsOf:
    """Make arguments of a step, as tasks have them: every other one, the first too, is padded."""

    def make(spec: StepSpec, dtype: torch.dtype) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        network = build_network(spec.network, spec.input_shape, spec.batch_norm_epsilon)
        layout = spec.layout()
        tasks = range(spec.task_count)
        ways = [spec.way - 1 + task % 2 for task in tasks]
        vectors = [layout.join(initial_parameters(network, spec.way, generator)) for _ in tasks]
        batch = spec.task_count, spec.batch_size
        scale = 1e-4 if spec.updates_second_moment else 10.0  # v of each parameter, or its rate
        return [
            torch.stack(vectors).to(dtype),
            scale * (0.1 + torch.rand(len(tasks), layout.size, generator=generator).to(dtype)),
            torch.rand(*batch, *spec.input_shape, generator=generator, dtype=dtype),
            torch.stack([torch.arange(spec.batch_size) % way for way in ways]),
            torch.stack([torch.arange(spec.way) < way for way in ways]),
            torch.linspace(1e-3, 2e-3, len(tasks), dtype=dtype),
        ]

    return make
