"""Queries of classes that a task does not have."""

import torch
from torch import Tensor

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import EpisodeBatch, draw_distinct


def sample_unknown(
    dataset: ImageDataset, episodes: EpisodeBatch, generator: torch.Generator
) -> Tensor:
    """Draw one query of another class for each query of each task: rows `(tasks, queries)`.

    Each is a random image of a random class outside the task, independently of the others. Raises
    `DataError` where there is no other class.
    """
    task_count, way = episodes.classes.shape
    others = dataset.class_count - way
    if others < 1:
        raise DataError(
            f"each {way}-way task has all {dataset.class_count} classes of {dataset.name}; queries "
            "of unknown classes need at least one more"
        )
    query_count = episodes.queries.shape[1]
    populations = torch.full((task_count * query_count,), others, dtype=torch.int64)
    classes = draw_distinct(populations, 1, generator).reshape(task_count, query_count)
    # The r-th of the others is r, plus one for each class of the task at or below it on the way up.
    for known in episodes.classes.sort(dim=1).values.T:
        classes = classes + (classes >= known[:, None])
    starts = dataset.class_offsets[classes]
    sizes = (dataset.class_offsets[classes + 1] - starts).flatten()
    return starts + draw_distinct(sizes, 1, generator).reshape(task_count, query_count)
