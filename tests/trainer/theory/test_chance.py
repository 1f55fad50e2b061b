from collections.abc import Callable

import torch

from kshot.bundle import BatchNormMode
from kshot.learner import Network, query_logits
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.statistics import t_half_width
from kshot.trainer.tasks.episodes import sample_episodes

WAY, TASKS = 3, 2000


def test_what_knows_all_classes_guesses_before_the_first_step(
    linear: Callable[[int], Network], patterns: Callable[..., ImageDataset]
) -> None:
    """Each task numbers its classes anew, so no initialization beats 1 / way without adapting.

    The one here tells every class's own number modulo way from its images, at least 95 % of them
    right; as an answer to tasks it is right in 1/3 of the queries, within the 95 % t-interval over
    2,000 tasks, whose half width is at most 0.015.
    """
    dataset = patterns(class_count=9, image_count=5)
    pixels = dataset.images.flatten(1).double() / 255
    numbers = torch.arange(9).repeat_interleave(5) % WAY
    wanted = torch.nn.functional.one_hot(numbers, WAY).double()
    head = torch.linalg.lstsq(pixels, wanted, driver="gelsd").solution.T  # (way, 784)
    network = linear(pixels.shape[1])
    parameters = {"head.weight": head[None], "head.bias": torch.zeros(1, WAY).double()}

    def answers(rows: torch.Tensor) -> torch.Tensor:
        """Answer queries ``(T, n)``."""
        images = pixels[rows][:, :, None, None]
        logits = query_logits(network, parameters, images, images, BatchNormMode.SUPPORT)
        return logits.argmax(dim=2)

    tasks = sample_episodes(dataset, TASKS, WAY, 1, 1, torch.Generator().manual_seed(6))
    hits = (answers(tasks.queries) == tasks.query_classes).double().mean(dim=1)

    known = answers(torch.arange(45)[None])[0] == numbers
    assert known.double().mean() >= 0.95
    half_width = t_half_width(hits.numpy())
    assert half_width <= 0.015
    assert abs(hits.mean().item() - 1 / WAY) <= half_width
