from collections.abc import Callable

import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import EpisodeBatch, sample_episodes
from kshot.trainer.tasks.support_flaws import SupportFlaws, flawed

Patterns = Callable[..., ImageDataset]


@pytest.fixture
def dataset(patterns: Patterns) -> ImageDataset:
    return patterns(class_count=8, image_count=12)


def draw(dataset: ImageDataset, way: int, shot: int, count: int = 40) -> EpisodeBatch:
    return sample_episodes(dataset, count, way, shot, 2, torch.Generator().manual_seed(0))


def true_labels(dataset: ImageDataset, episodes: EpisodeBatch) -> torch.Tensor:
    """Return the place of each support image's class in its task: ``(tasks, n)``."""
    classes = (
        torch.searchsorted(dataset.class_offsets, episodes.support.contiguous(), right=True) - 1
    )
    return (classes[:, :, None] == episodes.classes[:, None, :]).int().argmax(dim=2)


@pytest.mark.parametrize(
    ("way", "shot", "share", "wrong"),
    [(5, 1, 0.4, 2), (5, 1, 1.0, 5), (5, 5, 0.2, 5), (5, 5, 1.0, 25), (2, 4, 0.5, 4)],
)
def test_a_share_of_the_labels_is_another_class_of_the_task(
    dataset: ImageDataset, way: int, shot: int, share: float, wrong: int
) -> None:
    episodes = draw(dataset, way, shot)
    found = flawed(dataset, episodes, shot, SupportFlaws(wrong_labels=share), seed=3)

    assert torch.equal(found.support, episodes.support)
    assert torch.equal(found.queries, episodes.queries)
    assert torch.equal(found.query_classes, episodes.query_classes)
    differ = found.support_classes != true_labels(dataset, found)
    assert differ.sum(dim=1).tolist() == [wrong] * len(episodes)
    for labels in found.support_classes:
        assert labels.bincount(minlength=way).tolist() == [shot] * way


def test_wrong_labels_are_spread_over_examples_and_classes(dataset: ImageDataset) -> None:
    """In 400 tasks each of the 25 examples is wrong about 80 times."""
    episodes = draw(dataset, 5, 5, count=400)
    found = flawed(dataset, episodes, 5, SupportFlaws(wrong_labels=0.2), seed=0)

    differ = (found.support_classes != episodes.support_classes).sum(dim=0)
    assert 45 < int(differ.min()) < int(differ.max()) < 115
    pairs = 5 * episodes.support_classes + found.support_classes
    counts = pairs.flatten().bincount(minlength=25).reshape(5, 5)
    assert int(counts[~torch.eye(5, dtype=torch.bool)].min()) > 50


@pytest.mark.parametrize(("way", "shot"), [(5, 5), (4, 3), (2, 2)])
def test_uneven_shots_keep_the_total_and_every_class(
    dataset: ImageDataset, way: int, shot: int
) -> None:
    episodes = draw(dataset, way, shot)
    found = flawed(dataset, episodes, shot, SupportFlaws(imbalance=True), seed=3)

    assert found.support.shape == episodes.support.shape
    assert torch.equal(found.queries, episodes.queries)
    assert torch.equal(found.support_classes, true_labels(dataset, found))
    shots = torch.stack([labels.bincount(minlength=way) for labels in found.support_classes])
    assert (int(shots.min()), int(shots.max())) == (1, 2 * shot - 1)
    if way % 2:
        assert shots[:, -1].tolist() == [shot] * len(episodes)
    for support, queries in zip(found.support, found.queries, strict=True):
        assert len(set(support.tolist()) | set(queries.tolist())) == len(support) + len(queries)


def test_flaws_follow_from_the_seed(dataset: ImageDataset) -> None:
    episodes = draw(dataset, 4, 3)
    flaws = SupportFlaws(wrong_labels=0.5, imbalance=True)
    one, again, other = (flawed(dataset, episodes, 3, flaws, seed) for seed in (1, 1, 2))

    assert torch.equal(one.support, again.support)
    assert torch.equal(one.support_classes, again.support_classes)
    assert not torch.equal(one.support, other.support)
    differ = one.support_classes != true_labels(dataset, one)
    assert differ.sum(dim=1).tolist() == [6] * len(episodes)
    assert flawed(dataset, episodes, 3, SupportFlaws(), 1) is episodes


@pytest.mark.parametrize(
    ("way", "shot", "flaws", "message"),
    [
        (5, 1, SupportFlaws(wrong_labels=0.2), "cannot exchange 1 of 5 labels of 5 classes"),
        (2, 5, SupportFlaws(wrong_labels=0.3), "cannot exchange 3 of 10 labels of 2 classes"),
        (5, 1, SupportFlaws(imbalance=True), "shot: expected at least 2 for uneven shots, got 1"),
        (
            5,
            6,
            SupportFlaws(imbalance=True),
            "need 5 more images per class than the 8 .* has only 12",
        ),
    ],
)
def test_flaws_that_cannot_be_made_are_refused(
    dataset: ImageDataset, way: int, shot: int, flaws: SupportFlaws, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        flawed(dataset, draw(dataset, way, shot), shot, flaws, 0)
