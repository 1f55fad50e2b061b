"""Small tasks that the contenders of the benchmarks adapt to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from kshot.bench import jax_loop
from kshot.bench.tasks import AdaptTask, Size, generated_task
from kshot.bundle import InputSpec, Manifest, NetworkSpec, Preconditioner, Rescale
from kshot.learner import Conv4, Initialization, initial_parameters

jax_loop.limit_threads(1)  # before the first use of JAX in this process

MakeTask = Callable[..., AdaptTask]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_manifest(manifest: Manifest) -> Manifest:
    """A network of 4 filters for images of 13 by 10, which are padded both ways."""
    return replace(
        manifest,
        network=NetworkSpec("conv4", {"filters": 4}),
        input=InputSpec(shape=(1, 13, 10), preprocessing=(Rescale(1 / 255),)),
    )


@pytest.fixture
def make_task(small_manifest: Manifest) -> MakeTask:
    """Return a function from a size to a task that starts from random weights and a v of 1e-3."""

    def make(
        way: int = 3,
        shot: int = 2,
        step_count: int = 6,
        batch_size: int = 5,
        preconditioner: Preconditioner = Preconditioner.CARRIED,
    ) -> AdaptTask:
        network = Conv4(small_manifest.input.shape, filters=4)
        generator = torch.Generator().manual_seed(3)
        parameters = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            for name, value in initial_parameters(network, way, generator).items()
        }
        second_moment = {name: torch.full_like(value, 1e-3) for name, value in parameters.items()}
        initialization = Initialization(network, way, parameters, second_moment, 100_000)
        size = Size(way, shot, step_count, batch_size)
        return generated_task(small_manifest, initialization, size, preconditioner)

    return make
