"""Who trains in `kshot bench train`: each a function that does some meta-iterations."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from kshot.bench.speed import plain_loop
from kshot.bench.speed.contenders import load_plain, named_parameters, plain_parameters
from kshot.bench.speed.timed_tasks import generated_dataset, has_yardstick
from kshot.learner import Conv4, InnerStep, build_network, layout_of
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.outer_state import OuterState, meta_step_size
from kshot.trainer.loop.prefetch import prefetch
from kshot.trainer.loop.run import first_state
from kshot.trainer.recipe.recipe import Inner, Recipe, Task

__all__ = ["Trainee", "Workload", "jax_reptile", "kshot_reptile", "plain_reptile", "workload"]

IMAGES_PER_CLASS = 20  # Omniglot's

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trainee:
    """One training under way: do so many more meta-iterations; name the parameters so far."""

    advance: Callable[[int], None]
    learned: Callable[[], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Workload:
    """A recipe over generated images, and the state that everyone starts from."""

    recipe: Recipe
    dataset: ImageDataset
    network: Conv4
    start: OuterState
    device: torch.device

    def meta_step_size(self, meta_iteration: int) -> float:
        """Return the recipe's step size of one meta-iteration."""
        return meta_step_size(self.recipe.outer, meta_iteration)


def workload(recipe: Recipe, class_count: int, device: torch.device) -> Workload:
    """Make the images and the start of a training by a recipe with the network conv4."""
    network = build_network(recipe.network, recipe.input.shape, recipe.batch_norm.epsilon)
    if not has_yardstick(network):
        raise ValueError(
            f"network is {recipe.network.name}, wanted conv4 without max-pooling, the yardstick's"
        )
    dataset = generated_dataset(recipe.input.shape, class_count, IMAGES_PER_CLASS)
    start = first_state(image_loop(recipe, dataset, device), device)
    return Workload(recipe, dataset, network, start, device)


def kshot_reptile(work: Workload, step: InnerStep) -> Trainee:
    """Train as `kshot train` does: its outer loop, the tasks drawn ahead by a thread.

    The step is by the trainer's `step_spec`.
    """
    loop = replace(image_loop(work.recipe, work.dataset, work.device), inner_step=step)
    state = work.start

    def advance(count: int) -> None:
        nonlocal state
        done = state.meta_iteration
        with prefetch(loop.draw, done, done + count) as batches:
            for tasks in batches:
                state, _ = loop.advance(state, tasks)
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)

    return Trainee(advance, lambda: named_parameters(loop.layout, state.parameters[None]))


def plain_reptile(work: Workload, seed: int = 0) -> Trainee:
    """Train as `plain_loop.py` does, on its own draws of the same kind of tasks."""
    task, inner, outer = work.recipe.task, work.recipe.inner, work.recipe.outer
    layout = layout_of(work.network, task.way)
    model = load_plain(work.network, named_parameters(layout, work.start.parameters[None]))
    optimizer = plain_loop.adam(model, inner.learning_rate)
    images = work.dataset.images.reshape(-1, IMAGES_PER_CLASS, *work.network.input_shape).to(
        work.device
    )
    generator = random.Random(seed)  # noqa: S311 -- tasks are no secrets
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        for _ in range(count):
            tasks = (
                plain_loop.sample_task(
                    images, task.way, task.shot, inner.step_count, inner.batch_size, generator
                )
                for _ in range(outer.meta_batch_size)
            )
            plain_loop.reptile_iteration(model, optimizer, tasks, work.meta_step_size(done))
            done += 1
        if work.device.type == "cuda":
            torch.cuda.synchronize(work.device)

    return Trainee(advance, lambda: plain_parameters(model))


def jax_reptile(work: Workload, *, serial: bool, seed: int = 0) -> Trainee:
    """Train as `jax_loop.py` does, on its own draws of the same kind of tasks.

    ``serial`` adapts to a meta-batch's tasks one after another, as the recipe says, else under
    vmap, which carries the mean of their second moments.
    """
    from kshot.bench.speed import jax_loop

    task, inner, outer = work.recipe.task, work.recipe.inner, work.recipe.outer
    layout = layout_of(work.network, task.way)
    parameters, second_moment = (
        jax_loop.from_names(named_parameters(layout, vector[None]))
        for vector in (work.start.parameters, work.start.second_moment)
    )
    state = jax_loop.State(parameters, second_moment, jax_loop.whole(work.start.step))
    loop = jax_loop.Loop(inner.learning_rate, work.network.epsilon)
    images = jax_loop.on_device(work.dataset.images.permute(0, 2, 3, 1).numpy())
    classes = np.arange(task.way).repeat(task.shot)
    generator = np.random.default_rng(seed)
    done = 0

    def advance(count: int) -> None:
        nonlocal state, done
        for _ in range(count):
            drawn = [
                _draw(generator, work.dataset.class_count, task, inner)
                for _ in range(outer.meta_batch_size)
            ]
            rows, batches = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
            size = np.float32(work.meta_step_size(done))
            state, _ = jax_loop.reptile_iteration(
                state, images, rows, classes, batches, size, loop=loop, serial=serial
            )
            done += 1
        jax_loop.wait(state)

    return Trainee(advance, lambda: jax_loop.to_names(state.parameters))


def _draw(
    generator: np.random.Generator, class_count: int, task: Task, inner: Inner
) -> tuple[Indices, Indices]:
    """Draw one task: rows of the data set ``(n,)``, and of those each step's ``(steps, batch)``."""
    chosen = generator.choice(class_count, task.way, replace=False)
    images = generator.permuted(np.tile(np.arange(IMAGES_PER_CLASS), (task.way, 1)), axis=1)
    rows = chosen[:, None] * IMAGES_PER_CLASS + images[:, : task.shot]
    wanted = inner.step_count * inner.batch_size
    passes = np.tile(np.arange(rows.size), (-(-wanted // rows.size), 1))
    dealt = generator.permuted(passes, axis=1).ravel()[:wanted]
    return rows.ravel(), dealt.reshape(inner.step_count, inner.batch_size)
