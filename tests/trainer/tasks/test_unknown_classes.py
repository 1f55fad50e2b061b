from collections.abc import Callable

import pytest
import torch

from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.tasks.episodes import sample_episodes
from kshot.trainer.tasks.unknown_classes import sample_unknown

Patterns = Callable[..., ImageDataset]


def test_unknown_queries_are_of_every_other_class_and_of_no_known_one(patterns: Patterns) -> None:
    dataset = patterns(class_count=8, image_count=7)
    generator = torch.Generator().manual_seed(0)
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
    generator = torch.Generator().manual_seed(0)
    episodes = sample_episodes(dataset, 2, 5, 1, 1, generator)

    with pytest.raises(DataError, match="each 5-way task has all 5 classes of patterns 0"):
        sample_unknown(dataset, episodes, generator)
