"""The plain loop's sampling and outer loop."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch import nn

from kshot.bench.speed import plain_loop


def test_a_drawn_task_has_distinct_images_of_distinct_classes() -> None:
    images = torch.arange(6 * 8).reshape(6, 8, 1, 1, 1).to(torch.uint8)

    task = plain_loop.sample_task(images, 3, 4, 5, 7, random.Random(0))

    numbers = (task.images.flatten() * 255).round().int().tolist()
    assert len(set(numbers)) == 12
    of_class = [{number // 8 for number in numbers[first : first + 4]} for first in (0, 4, 8)]
    assert all(len(classes) == 1 for classes in of_class)
    assert len(set.union(*of_class)) == 3
    assert task.classes.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert task.batches.shape == (5, 7)


def test_batches_use_all_examples_before_repeating_any() -> None:
    images = torch.zeros(3, 5, 1, 2, 2, dtype=torch.uint8)

    batches = plain_loop.sample_task(images, 2, 5, 4, 5, random.Random(0)).batches.flatten()

    assert Counter(batches[:10].tolist()) == Counter(range(10))
    assert Counter(batches[10:].tolist()) == Counter(range(10))


def test_reptile_moves_to_the_mean_of_the_adapted_models() -> None:
    """SGD with rate 1 on a bias: each task moves it by its own gradient, then it is put back."""
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    image, batches = torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64)
    tasks = [plain_loop.Task(image, torch.tensor([number]), batches) for number in (0, 0, 1)]

    plain_loop.reptile_iteration(model, optimizer, tasks, 0.5)

    # The gradient of class 0 is (-1/2, 1/2), of class 1 (1/2, -1/2): the mean move is 1/6.
    assert model.bias.tolist() == pytest.approx([0.5 / 6, -0.5 / 6])
