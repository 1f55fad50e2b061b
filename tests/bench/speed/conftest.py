"""Small tasks that the contenders of the benchmarks adapt to, and a small training."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kshot.bench.options import limit_jax_threads
from kshot.bench.speed.adapt_contenders import kshot_loop, kshot_spec, named_parameters
from kshot.bench.speed.timed_task import Size, TimedTask, generated_task
from kshot.bench.speed.train_contenders import Workload, workload
from kshot.bundle import InputSpec, Manifest, NetworkSpec, Preconditioner, Rescale
from kshot.learner import Conv4, Initialization, initial_parameters, layout_of
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.recipe.files import load_image_recipe

# Both before the first use of JAX in this process. Its compiler takes longer than what it compiles.
limit_jax_threads(1)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def small_manifest(manifest: Manifest) -> Manifest:
    """A network of 4 filters for images of 13 by 10, which are padded both ways."""
    return replace(
        manifest,
        network=NetworkSpec("conv4", {"filters": 4}),
        input=InputSpec(shape=(1, 13, 10), preprocessing=(Rescale(1 / 255),)),
    )


@pytest.fixture
def make_task(small_manifest: Manifest) -> Callable[..., TimedTask]:
    """Return a function from a size to a task that starts from random weights and a v of 1e-3."""

    def make(
        way: int = 3,
        shot: int = 2,
        step_count: int = 6,
        batch_size: int = 5,
        preconditioner: Preconditioner = Preconditioner.CARRIED,
    ) -> TimedTask:
        network = Conv4(small_manifest.input.shape, filters=4)
        generator = torch.Generator().manual_seed(3)
        parameters = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            for name, value in initial_parameters(network, way, generator).items()
        }
        second_moment = {name: torch.full_like(value, 1e-3) for name, value in parameters.items()}
        initialization = Initialization(network, way, parameters, second_moment, 100_000)
        size = Size(way, shot, step_count, batch_size)
        inner_loop = replace(small_manifest.inner_loop, preconditioner=preconditioner)
        return generated_task(replace(small_manifest, inner_loop=inner_loop), initialization, size)

    return make


@pytest.fixture
def adapt_with_kshot() -> Callable[[TimedTask], tuple[dict[str, Tensor], float]]:
    """Return a function from a task to kshot's parameters, without padding, and last loss.

    It does not compile: a tiny network does not repay a compiler.
    """

    def adapt(task: TimedTask) -> tuple[dict[str, Tensor], float]:
        spec = kshot_spec(task)
        (result,) = kshot_loop(task, spec.build())()
        padded = named_parameters(spec.layout(), result.parameters[None])
        shapes = layout_of(task.network, task.size.way).shapes
        parameters = {name: padded[name][: shape[0]] for name, shape in shapes.items()}
        return parameters, float(result.losses[-1])

    return adapt


@pytest.fixture
def work() -> Workload:
    """A small training that is under way, so that all contenders divide by about the same v."""
    settings = (
        "network.arguments.filters=4",
        "task.way=3",
        "task.shot=2",
        "inner.batch_size=4",
        "inner.step_count=3",
        "outer.meta_batch_size=2",
        "outer.meta_iterations=10",
    )
    recipe = load_image_recipe("omniglot-5way", settings)
    small = workload(recipe, 8, torch.device("cpu"))
    parameters = small.start.parameters
    start = OuterState(parameters, torch.full_like(parameters, 1e-3), 100_000, 0)
    return replace(small, start=start)
