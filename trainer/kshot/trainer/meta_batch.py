"""The tasks of one meta-iteration, as index tables."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner import cycling_indices, derive_seed
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import sample_episodes
from kshot.trainer.recipe import Recipe


@dataclass(frozen=True)
class MetaBatch:
    """Point at the examples of T tasks; all int64, on the CPU.

    ``rows`` ``(T, n)`` are rows of the data set's images, ``classes`` ``(T, n)`` their labels, and
    ``indices`` ``(T, steps, batch)`` the examples, of n, that each inner step sees.
    """

    rows: Tensor
    classes: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return int(self.rows.shape[0])


def draw_meta_batch(recipe: Recipe, dataset: ImageDataset, meta_iteration: int) -> MetaBatch:
    """Draw the tasks of a meta-iteration, and their mini-batches.

    Everything random follows from the recipe's seed and the meta-iteration's number, so that a
    resumed training draws what an uninterrupted one would have drawn.
    """
    task, inner, outer = recipe.task, recipe.inner, recipe.outer
    seed = derive_seed(outer.seed, meta_iteration)
    generator = torch.Generator().manual_seed(seed)
    episodes = sample_episodes(dataset, outer.meta_batch_size, task.way, task.shot, 0, generator)
    indices = [
        cycling_indices(
            task.way * task.shot, inner.batch_size, inner.step_count, derive_seed(seed, number)
        )
        for number in range(outer.meta_batch_size)
    ]
    return MetaBatch(episodes.support, episodes.support_classes, torch.stack(indices))
