"""Few-shot adaptation and Reptile as a user would write them in plain PyTorch.

It imports nothing from kshot: an `nn.Module`, `torch.optim.Adam` and a loop, one task at a time.
"""

import copy
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainConv4(nn.Module):
    """Four blocks of 3x3 convolution with stride 2, batch norm and ReLU, and a linear head.

    Padding is TensorFlow's SAME. The convolutions have no bias, because batch norm would cancel
    it. Batch norm always uses the statistics of its batch.
    """

    def __init__(
        self, input_shape: Sequence[int], filters: int, way: int, epsilon: float = 1e-3
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        blocks = []
        for _ in range(4):
            # An even side is padded by (0, 1), an odd one by (1, 1).
            pad = nn.ZeroPad2d((width % 2, 1, height % 2, 1))
            convolution = nn.Conv2d(channels, filters, 3, stride=2, bias=False)
            norm = nn.BatchNorm2d(filters, eps=epsilon, track_running_stats=False)
            blocks.append(nn.Sequential(pad, convolution, norm, nn.ReLU()))
            channels, height, width = filters, (height + 1) // 2, (width + 1) // 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(filters * height * width, way)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, channels, height, width)` to logits `(n, way)`."""
        logits: Tensor = self.head(self.blocks(images).flatten(1))
        return logits


@dataclass(frozen=True)
class Task:
    """Images `(n, channels, height, width)`, classes `(n,)`, and each step's batch of rows."""

    images: Tensor
    classes: Tensor
    batches: Tensor  # (steps, batch_size)


def adam(model: nn.Module, learning_rate: float, *, fused: bool = False) -> torch.optim.Adam:
    """Make Adam with its defaults but without momentum, as Reptile's authors use it."""
    return torch.optim.Adam(
        model.parameters(), lr=learning_rate, betas=(0.0, 0.999), fused=True if fused else None
    )


def run_steps(model: nn.Module, optimizer: torch.optim.Optimizer, task: Task) -> Tensor:
    """Take an optimizer step on each batch of a task; return the last batch's loss before it."""
    loss = task.images.new_zeros(())
    for rows in task.batches:
        loss = functional.cross_entropy(model(task.images[rows]), task.classes[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    return loss.detach()


def adapt(
    initialization: nn.Module, task: Task, learning_rate: float, *, fused: bool = False
) -> tuple[nn.Module, Tensor]:
    """Adapt a copy of a model to one task; return it with its last loss."""
    model = copy.deepcopy(initialization)
    loss = run_steps(model, adam(model, learning_rate, fused=fused), task)
    return model, loss


def reptile_iteration(
    model: nn.Module, optimizer: torch.optim.Optimizer, tasks: Iterable[Task], meta_step_size: float
) -> None:
    """Move a model towards the mean of its adaptations to some tasks.

    Nichol, Achiam, Schulman 2018, algorithm 1. The same optimizer serves all tasks, so that
    its second moment is carried from task to task, as in the paper's code.
    """
    before = [parameter.detach().clone() for parameter in model.parameters()]
    total = [torch.zeros_like(parameter) for parameter in before]
    count = 0
    for task in tasks:
        run_steps(model, optimizer, task)
        count += 1
        with torch.no_grad():
            for summed, parameter, start in zip(total, model.parameters(), before, strict=True):
                summed.add_(parameter - start)
                parameter.copy_(start)
    with torch.no_grad():
        for summed, parameter in zip(total, model.parameters(), strict=True):
            parameter.add_(summed, alpha=meta_step_size / count)


def sample_task(
    images: Tensor, way: int, shot: int, step_count: int, batch_size: int, generator: random.Random
) -> Task:
    """Draw a task from uint8 images `(classes, images, channels, height, width)`.

    Its batches go through the shuffled examples and shuffle them again after the last.
    """
    chosen = generator.sample(range(images.shape[0]), way)
    pieces = [
        images[number][torch.tensor(generator.sample(range(images.shape[1]), shot))]
        for number in chosen
    ]
    classes = torch.arange(way).repeat_interleave(shot)
    rows: list[int] = []
    while len(rows) < step_count * batch_size:
        rows += generator.sample(range(way * shot), way * shot)
    batches = torch.tensor(rows[: step_count * batch_size]).reshape(step_count, batch_size)
    support = torch.cat(pieces).float() / 255
    device = images.device
    return Task(support, classes.to(device), batches.to(device))
