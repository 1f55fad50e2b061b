"""Flaws of users' support sets, made on purpose: wrong labels and uneven shots."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kshot.learner import derive_seed
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import EpisodeBatch, draw_distinct

# Mixed into the seed, above any task's number, so that they share no stream with a task's draws.
_IMBALANCE, _WRONG_LABELS = 2**40 + 1, 2**40 + 2
_TRIES = 1000


@dataclass(frozen=True)
class SupportFlaws:
    """`wrong_labels` is a share of the support labels, 0..1; `imbalance` makes shots uneven."""

    wrong_labels: float = 0.0
    imbalance: bool = False


def flawed(
    dataset: ImageDataset, episodes: EpisodeBatch, shot: int, flaws: SupportFlaws, seed: int
) -> EpisodeBatch:
    """Return the tasks with flawed support sets and unchanged queries; uneven shots come first.

    The result depends on the arguments alone. Raises `DataError` where the flaws are impossible.
    """
    if flaws.imbalance:
        generator = torch.Generator().manual_seed(derive_seed(seed, _IMBALANCE))
        episodes = _uneven(dataset, episodes, shot, generator)
    if flaws.wrong_labels:
        generator = torch.Generator().manual_seed(derive_seed(seed, _WRONG_LABELS))
        labels = [
            _exchanged(labels, flaws.wrong_labels, generator) for labels in episodes.support_classes
        ]
        episodes = replace(episodes, support_classes=torch.stack(labels))
    return episodes


def _uneven(
    dataset: ImageDataset, episodes: EpisodeBatch, shot: int, generator: torch.Generator
) -> EpisodeBatch:
    """Move images between classes: 1 to 2 shot - 1 per class, with an unchanged total.

    Of classes 2j and 2j + 1 one gets `shot + d` images and the other `shot - d`, with d uniform
    in -(shot - 1)..shot - 1; the last of an odd number of classes keeps its shots.
    """
    if shot < 2:
        raise DataError(f"shot: expected at least 2 for uneven shots, got {shot}")
    task_count, way = episodes.classes.shape
    more = _further_images(dataset, episodes, shot - 1, generator)
    images = torch.cat([episodes.support.reshape(task_count, way, shot), more], dim=2)
    moved = torch.randint(1 - shot, shot, (task_count, way // 2), generator=generator)
    shots = torch.full((task_count, way), shot)
    shots[:, 0 : 2 * (way // 2) : 2] += moved
    shots[:, 1 : 2 * (way // 2) : 2] -= moved
    taken = torch.arange(images.shape[2]) < shots[:, :, None]  # (tasks, way, 2 shot - 1)
    labels = torch.arange(way)[None, :, None].expand_as(taken)
    return replace(
        episodes,
        support=images[taken].reshape(task_count, -1),
        support_classes=labels[taken].reshape(task_count, -1),
    )


def _further_images(
    dataset: ImageDataset, episodes: EpisodeBatch, count: int, generator: torch.Generator
) -> Tensor:
    """Draw unused images of each task's classes: `(tasks, way, count)`.

    A rank among a class's other images becomes one among all by adding 1 for each used image at or
    below it, on the way up.
    """
    task_count, way = episodes.classes.shape
    starts = dataset.class_offsets[episodes.classes]
    sizes = dataset.class_offsets[episodes.classes + 1] - starts
    used = [rows.reshape(task_count, way, -1) for rows in (episodes.support, episodes.queries)]
    ranks = (torch.cat(used, dim=2) - starts[:, :, None]).sort(dim=2).values
    others = sizes - ranks.shape[2]
    if int(others.min()) < count:
        raise DataError(
            f"uneven shots need {count} more images per class than the {ranks.shape[2]} support "
            f"and query images; a class of {dataset.name} has only {int(sizes.min())}"
        )
    drawn = draw_distinct(others.flatten(), count, generator).reshape(task_count, way, count)
    for rank in ranks.unbind(dim=2):
        drawn = drawn + (drawn >= rank[:, :, None])
    return starts[:, :, None] + drawn


def _exchanged(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Exchange a share of the labels `(n,)`: each chosen example gets the label of another class.

    Examples are drawn until no class has more than half of them. Sorted by class, their labels
    then rotate by a random number of places: at least the size of the largest class, and at most
    the rest. Every class keeps its number of labels.
    """
    count = round(share * len(labels))
    for _ in range(_TRIES if count > 1 else 0):
        chosen = torch.randperm(len(labels), generator=generator)[:count]
        chosen = chosen[labels[chosen].argsort(stable=True)]
        largest = int(labels[chosen].bincount().max())
        if 2 * largest <= count:
            places = int(torch.randint(largest, count - largest + 1, (), generator=generator))
            exchanged = labels.clone()
            exchanged[chosen] = labels[chosen].roll(places)
            return exchanged
    raise DataError(
        f"cannot exchange {count} of {len(labels)} labels of {int(labels.max()) + 1} classes so "
        "that each becomes another class's; choose another share of wrong labels"
    )
