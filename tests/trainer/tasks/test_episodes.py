import time
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import (
    EpisodeBatch,
    episode_digest,
    sample_episodes,
    sample_unknown,
)

Patterns = Callable[..., ImageDataset]


def dataset_of(sizes: list[int]) -> ImageDataset:
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    images = torch.zeros(int(offsets[-1]), 1, 1, 1, dtype=torch.uint8)
    return make_dataset("blanks", images, offsets, tuple(str(index) for index in range(len(sizes))))


def class_of(dataset: ImageDataset, rows: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(rows, dataset.class_offsets[1:], right=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_support_and_queries_are_different_images_of_the_labelled_classes() -> None:
    dataset = dataset_of([6, 9, 20, 7, 11, 8])

    episodes = sample_episodes(dataset, 200, 4, 2, 3, seeded())

    assert len(episodes) == 200
    for index in range(len(episodes)):
        episode = episodes[index]
        assert len(set(episode.classes.tolist())) == 4
        rows = torch.cat([episode.support, episode.queries])
        assert len(set(rows.tolist())) == 4 * (2 + 3)
        assert torch.equal(
            class_of(dataset, episode.support), episode.classes[episode.support_classes]
        )
        assert torch.equal(
            class_of(dataset, episode.queries), episode.classes[episode.query_classes]
        )
        assert episode.support_classes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert episode.query_classes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_every_ordered_pair_of_classes_is_drawn_equally_often() -> None:
    """Labels carry no information about classes only if orders are as random as choices."""
    episodes = sample_episodes(dataset_of([2, 2, 2, 2]), 12000, 2, 1, 0, seeded())

    counts = Counter(map(tuple, episodes.classes.tolist()))
    assert len(counts) == 12
    # Binomial with mean 1000 and standard deviation 30: five of them.
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_every_image_of_a_class_is_support_equally_often() -> None:
    episodes = sample_episodes(dataset_of([5, 5]), 5000, 2, 2, 1, seeded(1))

    counts = Counter(episodes.support.flatten().tolist())
    assert sorted(counts) == list(range(10))
    # Binomial with mean 2000 and standard deviation 35: five of them.
    assert all(abs(count - 2000) < 175 for count in counts.values())


def test_a_class_can_be_used_up_and_all_classes_drawn() -> None:
    episode = sample_episodes(dataset_of([3, 3]), 1, 2, 2, 1, seeded())[0]

    assert sorted(torch.cat([episode.support, episode.queries]).tolist()) == [0, 1, 2, 3, 4, 5]


def test_an_episode_without_queries_is_for_training() -> None:
    episode = sample_episodes(dataset_of([3, 3]), 1, 2, 3, 0, seeded())[0]

    assert episode.queries.shape == (0,)
    assert episode.queries.dtype == torch.int64


def test_the_generator_decides_the_tasks() -> None:
    dataset = dataset_of([20] * 30)
    first, again, other = (
        sample_episodes(dataset, 10, 5, 1, 1, seeded(seed)) for seed in (7, 7, 8)
    )

    assert episode_digest(first) == episode_digest(again)
    assert episode_digest(first) != episode_digest(other)


def test_a_part_holds_the_same_tasks() -> None:
    episodes = sample_episodes(dataset_of([4] * 6), 10, 3, 1, 1, seeded())
    part = episodes[8:12]

    assert len(part) == 2
    assert episode_digest(part[1]) == episode_digest(episodes[9])


@pytest.mark.parametrize(
    ("way", "shot", "queries", "message"),
    [
        (7, 1, 1, "way: expected at most the 6 classes of blanks, got 7"),
        (1, 1, 1, "way: expected at least 2, got 1"),
        (2, 0, 1, "shot: expected at least 1, got 0"),
        (2, 1, -1, "queries per class: expected at least 0, got -1"),
        (2, 3, 2, "3 support and 2 query images per class: expected at most the 4 images of 5"),
    ],
)
def test_a_dataset_too_small_for_the_task_is_refused(
    way: int, shot: int, queries: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sample_episodes(dataset_of([9, 9, 9, 9, 9, 4]), 1, way, shot, queries, seeded())[0]


def test_no_tasks_are_refused() -> None:
    with pytest.raises(DataError, match="number of tasks: expected at least 1, got 0"):
        sample_episodes(dataset_of([2, 2]), 0, 2, 1, 1, seeded())


def test_five_thousand_five_way_episodes_take_less_than_a_second() -> None:
    dataset = dataset_of([20] * 4800)

    def seconds() -> float:
        started = time.process_time()
        episodes: EpisodeBatch = sample_episodes(dataset, 5000, 5, 10, 1, seeded())
        assert len(episodes) == 5000
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 1


def test_unknown_queries_are_of_every_other_class_and_of_no_known_one(patterns: Patterns) -> None:
    dataset = patterns(class_count=8, image_count=7)
    generator = seeded()
    episodes = sample_episodes(dataset, 300, 5, 1, 2, generator)

    unknown = sample_unknown(dataset, episodes, generator)

    assert unknown.shape == (300, 10)
    classes = torch.searchsorted(dataset.class_offsets, unknown, right=True) - 1
    for own, drawn in zip(episodes.classes, classes, strict=True):
        assert not set(own.tolist()) & set(drawn.tolist())
    counts = classes.flatten().bincount(minlength=8)
    assert counts.min() > 0.7 * 3000 / 8
    assert unknown.flatten().unique().numel() == 56


def test_unknown_queries_want_another_class(patterns: Patterns) -> None:
    dataset = patterns(class_count=5)
    generator = seeded()
    episodes = sample_episodes(dataset, 2, 5, 1, 1, generator)

    with pytest.raises(DataError, match="each 5-way task has all 5 classes of patterns 0"):
        sample_unknown(dataset, episodes, generator)
