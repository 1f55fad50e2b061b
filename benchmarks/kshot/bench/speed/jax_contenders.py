"""JAX's contenders of `kshot bench adapt` and `train`; imported only where JAX takes part."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array
from torch import Tensor

from kshot.bench.speed import jax_loop
from kshot.bench.speed.adapt_contenders import named_parameters
from kshot.bench.speed.timed_task import TimedTask
from kshot.bench.speed.train_contenders import IMAGES_PER_CLASS, Workload
from kshot.learner import ParameterLayout
from kshot.trainer.loop.outer_state import meta_step_size
from kshot.trainer.recipe.recipe import Inner, Task

Indices = npt.NDArray[np.int64]


def jax_adapt(task: TimedTask) -> Callable[[], tuple[jax_loop.State, Array]]:
    """Adapt as `jax_loop.py` does, from the same v and t as kshot; gives each step's loss too."""
    start = task.start()
    state = _state(start.layout, start.parameters, start.second_moment, start.step)
    support = task.support.permute(0, 2, 3, 1).contiguous().numpy()
    classes, batches = task.classes.numpy(), task.batches.numpy()
    loop = jax_loop.Loop(task.rule.learning_rate, task.network.epsilon)

    def adapt() -> tuple[jax_loop.State, Array]:
        adapted, losses = jax_loop.adapt(loop, state, support, classes, batches)
        losses.block_until_ready()
        return adapted, losses

    return adapt


def jax_reptile(work: Workload, *, serial: bool, seed: int = 0) -> Callable[[int], jax_loop.State]:
    """Train as `jax_loop.py` does, on its own draws of the same kind of tasks.

    `serial` adapts to a meta-batch's tasks one after another, as the recipe does; otherwise they
    run under vmap, which carries the mean of their second moments.
    """
    task, inner, outer = work.recipe.task, work.recipe.inner, work.recipe.outer
    start = work.start
    state = _state(work.layout, start.parameters[None], start.second_moment[None], start.step)
    loop = jax_loop.Loop(inner.learning_rate, work.network.epsilon)
    images = jnp.asarray(work.dataset.images.permute(0, 2, 3, 1).numpy())
    classes = np.arange(task.way).repeat(task.shot)
    generator = np.random.default_rng(seed)
    done = 0

    def advance(count: int) -> jax_loop.State:
        nonlocal state, done
        for _ in range(count):
            drawn = [
                _draw(generator, work.dataset.class_count, task, inner)
                for _ in range(outer.meta_batch_size)
            ]
            rows, batches = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
            size = np.float32(meta_step_size(outer, done))
            state, _ = jax_loop.reptile_iteration(
                state, images, rows, classes, batches, size, loop=loop, serial=serial
            )
            done += 1
        jax.block_until_ready(state)  # type: ignore[no-untyped-call]  # jax leaves it untyped
        return state

    return advance


def from_names(parameters: Mapping[str, Tensor]) -> jax_loop.Tree:
    """Convert a bundle's parameters to the loop's shapes, `(9 * channels, filters)` kernels."""
    tree = {}
    for name, tensor in parameters.items():
        value = tensor.numpy()
        if name.endswith("convolution.weight"):
            tree[name] = jnp.asarray(value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0]))
        else:
            tree[name] = jnp.asarray(value.T)
    return tree


def _state(
    layout: ParameterLayout, parameters: Tensor, second_moment: Tensor, step: int
) -> jax_loop.State:
    values, moments = (
        from_names(named_parameters(layout, each)) for each in (parameters, second_moment)
    )
    # As an array: JAX would compile again for another number.
    return jax_loop.State(values, moments, jnp.asarray(step, jnp.int32))


def _draw(
    generator: np.random.Generator, class_count: int, task: Task, inner: Inner
) -> tuple[Indices, Indices]:
    """Draw one task: its rows of the data set `(n,)` and each step's rows of those."""
    chosen = generator.choice(class_count, task.way, replace=False)
    images = generator.permuted(np.tile(np.arange(IMAGES_PER_CLASS), (task.way, 1)), axis=1)
    rows = chosen[:, None] * IMAGES_PER_CLASS + images[:, : task.shot]
    wanted = inner.step_count * inner.batch_size
    passes = np.tile(np.arange(rows.size), (-(-wanted // rows.size), 1))
    dealt = generator.permuted(passes, axis=1).ravel()[:wanted]
    return rows.ravel(), dealt.reshape(inner.step_count, inner.batch_size)
