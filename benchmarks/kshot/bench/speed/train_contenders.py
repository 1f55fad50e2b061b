"""Contenders of `kshot bench train`: kshot's loop and the plain one (`jax_contenders` has JAX's).

Each is a function that does so many more meta-iterations and returns what it has trained.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from kshot.bench.speed import plain_loop
from kshot.bench.speed.adapt_contenders import load_plain, named_parameters
from kshot.bench.speed.timed_task import comparable_network, generated_dataset
from kshot.bench.speed.timing import synchronized
from kshot.learner import Conv4, InnerStep, ParameterLayout, build_network, layout_of
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.loop.image_run import image_loop
from kshot.trainer.loop.outer_state import OuterState, meta_step_size
from kshot.trainer.loop.prefetch import prefetch
from kshot.trainer.loop.run import first_state
from kshot.trainer.recipe.recipe import Recipe

IMAGES_PER_CLASS = 20  # Omniglot's


@dataclass(frozen=True)
class Workload:
    """A recipe over generated images, and the state from which every contender starts."""

    recipe: Recipe
    dataset: ImageDataset
    network: Conv4
    start: OuterState
    device: torch.device

    @property
    def layout(self) -> ParameterLayout:
        """Return the layout of the start's vectors."""
        return layout_of(self.network, self.recipe.task.way)


def workload(recipe: Recipe, class_count: int, device: torch.device) -> Workload:
    """Make the images and the start of a training by a recipe with the network conv4."""
    network = build_network(recipe.network, recipe.input.shape, recipe.batch_norm.epsilon)
    dataset = generated_dataset(recipe.input.shape, class_count, IMAGES_PER_CLASS)
    start = first_state(image_loop(recipe, dataset, device), device)
    return Workload(recipe, dataset, comparable_network(network), start, device)


def kshot_reptile(work: Workload, step: InnerStep) -> Callable[[int], OuterState]:
    """Train as `kshot train` does: its outer loop, with tasks drawn ahead by a thread.

    The step is that of the trainer's `step_spec`.
    """
    loop = replace(image_loop(work.recipe, work.dataset, work.device), inner_step=step)
    state = work.start

    def advance(count: int) -> OuterState:
        nonlocal state
        done = state.meta_iteration
        with prefetch(loop.tasks.draw, done, done + count) as batches:
            for tasks in batches:
                state, _ = loop.advance(state, tasks)
        return state

    return synchronized(advance, work.device)


def plain_reptile(work: Workload, seed: int = 0) -> Callable[[int], plain_loop.PlainConv4]:
    """Train as `plain_loop.py` does, on its own draws of the same kind of tasks."""
    task, inner, outer = work.recipe.task, work.recipe.inner, work.recipe.outer
    model = load_plain(work.network, named_parameters(work.layout, work.start.parameters[None]))
    optimizer = plain_loop.adam(model, inner.learning_rate)
    images = work.dataset.images.reshape(-1, IMAGES_PER_CLASS, *work.network.input_shape).to(
        work.device
    )
    generator = random.Random(seed)  # noqa: S311 -- tasks are no secrets
    done = 0

    def advance(count: int) -> plain_loop.PlainConv4:
        nonlocal done
        for _ in range(count):
            tasks = (
                plain_loop.sample_task(
                    images, task.way, task.shot, inner.step_count, inner.batch_size, generator
                )
                for _ in range(outer.meta_batch_size)
            )
            plain_loop.reptile_iteration(model, optimizer, tasks, meta_step_size(outer, done))
            done += 1
        return model

    return synchronized(advance, work.device)
