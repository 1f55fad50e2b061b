"""The tasks of one meta-iteration over a data set, as index tables."""

from dataclasses import dataclass, replace

import torch

from kshot.learner import derive_seed
from kshot.trainer.datasets.augmentation import changed, draw_changes
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.device_images import DevicePixels, to_device
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.tasks.episodes import sample_episodes
from kshot.trainer.tasks.seeds import AUGMENTATION, TASKS
from kshot.trainer.tasks.training_tasks import SupportBatch, draw_indices


@dataclass(frozen=True)
class ImageTasks:
    """The tasks of a recipe over a data set whose pixels are on the training's device."""

    recipe: Recipe
    dataset: ImageDataset
    pixels: DevicePixels

    def draw(self, meta_iteration: int) -> SupportBatch:
        """Draw the tasks of a meta-iteration; they depend on its number alone."""
        return draw_meta_batch(self.recipe, self.dataset, meta_iteration)

    def load(self, drawn: SupportBatch, tasks: slice) -> SupportBatch:
        """Copy some of the drawn tasks to the device."""
        part, device = drawn.part(tasks), self.pixels.images.device
        if part.changes is None:
            inputs = self.pixels.take(part.inputs)
        else:
            images = self.pixels.take_unreduced(part.inputs)
            inputs = changed(images, part.changes, self.recipe.input)
        return SupportBatch(
            inputs,
            to_device(part.targets, device),
            to_device(part.indices, device),
            None if part.tail is None else to_device(part.tail, device),
            None if part.early is None else to_device(part.early, device),
        )


def draw_meta_batch(recipe: Recipe, dataset: ImageDataset, meta_iteration: int) -> SupportBatch:
    """Draw the tasks of a meta-iteration, and their mini-batches.

    Everything random follows from the recipe's seed and the meta-iteration's number, so that a
    resumed training draws what an uninterrupted one would have drawn.
    """
    seed = derive_seed(recipe.outer.seed, TASKS, meta_iteration)
    generator = torch.Generator().manual_seed(seed)
    if recipe.task.labels == "fixed":
        drawn = _draw_from_all(recipe, dataset, generator)
    else:
        drawn = _draw_tasks(recipe, dataset, generator, seed)
    if recipe.augmentation is None:
        return drawn
    seed = derive_seed(recipe.outer.seed, AUGMENTATION, meta_iteration)
    own = torch.Generator().manual_seed(seed)
    shape = tuple(drawn.inputs.shape)
    changes = draw_changes(recipe.augmentation, shape, recipe.input.shape, own)
    return replace(drawn, changes=changes)


def _draw_tasks(
    recipe: Recipe, dataset: ImageDataset, generator: torch.Generator, seed: int
) -> SupportBatch:
    """Draw tasks with their own class numbers, and their mini-batches."""
    task, inner, outer = recipe.task, recipe.inner, recipe.outer
    episodes = sample_episodes(dataset, outer.meta_batch_size, task.way, task.shot, 0, generator)
    examples = torch.arange(task.way * task.shot).reshape(task.way, task.shot)
    early = examples[:, : task.shot - task.tail_shot].flatten()
    tail = examples[:, task.shot - task.tail_shot :].flatten()
    step_count = inner.step_count - (1 if task.tail_shot else 0)
    indices = draw_indices(inner, len(early), step_count, outer.meta_batch_size, seed)
    return SupportBatch(
        episodes.support,
        episodes.support_classes,
        early[indices],
        tail.expand(outer.meta_batch_size, -1) if task.tail_shot else None,
        early.expand(outer.meta_batch_size, -1) if task.tail_as_served else None,
    )


def _draw_from_all(
    recipe: Recipe, dataset: ImageDataset, generator: torch.Generator
) -> SupportBatch:
    """Draw images from all classes, each class with its own label: plain training."""
    inner, task_count = recipe.inner, recipe.outer.meta_batch_size
    shape = task_count, inner.step_count, inner.batch_size
    rows = torch.randint(dataset.image_count, shape, generator=generator).flatten(1)
    classes = torch.bucketize(rows, dataset.class_offsets[1:], right=True)
    indices = torch.arange(rows.shape[1]).reshape(shape[1:]).expand(shape)
    return SupportBatch(rows, classes, indices)
