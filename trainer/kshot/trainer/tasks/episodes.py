"""Few-shot tasks as index tensors: support and query images, and their classes."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError


@dataclass(frozen=True)
class EpisodeBatch:
    """`count` tasks of one way and shot; all int64.

    `support` `(count, way * shot)` and `queries` `(count, way * query_count)` are rows of the data
    set's images, class by class; `support_classes` and `query_classes` are their labels 0..way-1 in
    the order in which the classes were drawn; `classes` `(count, way)` are the data set's classes
    of the labels. A single task, `episodes[index]`, has no first dimension.
    """

    support: torch.Tensor
    support_classes: torch.Tensor
    queries: torch.Tensor
    query_classes: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return int(self.support.shape[0])

    def __getitem__(self, tasks: int | slice) -> "EpisodeBatch":
        return EpisodeBatch(*(tensor[tasks] for tensor in vars(self).values()))


def check_episodes(dataset: ImageDataset, way: int, shot: int, query_count_per_class: int) -> None:
    """Raise `DataError` unless the data set has enough classes and images for such a task."""
    least = (("way", way, 2), ("shot", shot, 1), ("queries per class", query_count_per_class, 0))
    for word, value, minimum in least:
        if value < minimum:
            raise DataError(f"{word}: expected at least {minimum}, got {value}")
    if way > dataset.class_count:
        classes = f"the {dataset.class_count} classes of {dataset.name}"
        raise DataError(f"way: expected at most {classes}, got {way}")
    counts = dataset.class_offsets.diff()
    smallest = int(counts.argmin())
    if shot + query_count_per_class > int(counts[smallest]):
        raise DataError(
            f"{shot} support and {query_count_per_class} query images per class: expected at most "
            f"the {int(counts[smallest])} images of {dataset.class_names[smallest]} in "
            f"{dataset.name}, got {shot + query_count_per_class}"
        )


def sample_episodes(
    dataset: ImageDataset,
    count: int,
    way: int,
    shot: int,
    query_count_per_class: int,
    generator: torch.Generator,
) -> EpisodeBatch:
    """Draw tasks: classes without replacement, and images of a class without replacement.

    The tasks depend on the generator's state and on all arguments: two calls for 5 tasks do not
    give the same tasks as one call for 10. Raises `DataError` when the data set is too small.
    """
    check_episodes(dataset, way, shot, query_count_per_class)
    if count < 1:
        raise DataError(f"number of tasks: expected at least 1, got {count}")
    populations = torch.full((count,), dataset.class_count, dtype=torch.int64)
    classes = draw_distinct(populations, way, generator)  # (count, way)
    starts = dataset.class_offsets[classes]
    sizes = dataset.class_offsets[classes + 1] - starts
    drawn = draw_distinct(sizes.flatten(), shot + query_count_per_class, generator)
    rows = starts[:, :, None] + drawn.reshape(count, way, -1)  # (count, way, shot + queries)
    labels = torch.arange(way)
    return EpisodeBatch(
        support=rows[:, :, :shot].reshape(count, -1),
        support_classes=labels.repeat_interleave(shot).expand(count, -1),
        queries=rows[:, :, shot:].reshape(count, -1),
        query_classes=labels.repeat_interleave(query_count_per_class).expand(count, -1),
        classes=classes,
    )


def sample_unknown(
    dataset: ImageDataset, episodes: EpisodeBatch, generator: torch.Generator
) -> torch.Tensor:
    """Draw one query of another class for each query of each task: rows `(tasks, queries)`.

    Each is a random image of a random class outside the task, independently of the others. Raises
    `DataError` where there is no other class.
    """
    others = dataset.class_count - episodes.classes.shape[1]
    if others < 1:
        raise DataError(
            f"each {episodes.classes.shape[1]}-way task has all {dataset.class_count} classes of "
            f"{dataset.name}; queries of unknown classes need at least one more"
        )
    shape = episodes.queries.shape
    populations = torch.full((shape.numel(),), others, dtype=torch.int64)
    classes = draw_distinct(populations, 1, generator).reshape(shape)
    # The r-th of the others is r, plus one for each class of the task at or below it on the way up.
    for known in episodes.classes.sort(dim=1).values.T:
        classes = classes + (classes >= known[:, None])
    starts = dataset.class_offsets[classes]
    sizes = (dataset.class_offsets[classes + 1] - starts).flatten()
    return starts + draw_distinct(sizes, 1, generator).reshape(shape)


def episode_digest(episodes: EpisodeBatch) -> str:
    """Return the SHA-256 of the indices and labels of tasks; equal tasks have equal digests."""
    digest = hashlib.sha256()
    for indices in vars(episodes).values():
        digest.update(repr(tuple(indices.shape)).encode())
        digest.update(indices.contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def draw_distinct(
    populations: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw `count` different numbers below each population, in random order: `(rows, count)`.

    The i-th number is the r_i-th of those not drawn before it, r_i uniform. From the last pair
    backwards, a rank among the numbers without x becomes one among all by adding 1 where it is at
    least the rank of x.
    """
    rows = populations.shape[0]
    # 2**62 is so far above any population that the remainder's bias is below 2**-40.
    random = torch.randint(0, 2**62, (rows, count), generator=generator)
    drawn: npt.NDArray[np.int64] = (random % (populations[:, None] - torch.arange(count))).numpy()
    for position in reversed(range(count - 1)):
        later = drawn[:, position + 1 :]
        later += later >= drawn[:, position : position + 1]
    return torch.from_numpy(drawn)
