"""The tasks of a meta-iteration: drawn ahead on the CPU, then copied to the device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class SupportBatch:
    """T tasks on the device that trains.

    `inputs` float32 `(T, n, channels, height, width)`; `targets` `(T, n)`, int64 classes or float32
    values; `indices` int64 `(T, steps, batch)`: the examples, of n, that each inner step sees. With
    a separate tail, `tail` `(T, tail batch)` are the examples of one more, last step; where that is
    answered like queries, `early` `(T, n - tail batch)` are all others.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    tail: Tensor | None = None
    early: Tensor | None = None

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def part(self, tasks: slice) -> SupportBatch:
        """Return some of the tasks."""
        return SupportBatch(
            self.inputs[tasks],
            self.targets[tasks],
            self.indices[tasks],
            None if self.tail is None else self.tail[tasks],
            None if self.early is None else self.early[tasks],
        )

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return examples of each task by number `(T, m)`: their inputs and targets."""
        rows = torch.arange(len(self), device=self.inputs.device).unsqueeze(1)
        return self.inputs[rows, indices], self.targets[rows, indices]

    def steps(self, steps: slice) -> SupportBatch:
        """Return the tasks with some of their inner steps; a separate tail comes alone.

        Its batch has its own size.
        """
        if self.tail is not None and steps.start == self.indices.shape[1]:
            return replace(self, indices=self.tail.unsqueeze(1), tail=None)
        return replace(self, indices=self.indices[:, steps], tail=None)


class TrainingTasks(Protocol[Drawn]):
    """A source of training tasks."""

    def draw(self, meta_iteration: int) -> Drawn:
        """Draw the tasks of a meta-iteration on the CPU; they depend on its number alone.

        Another thread calls this.
        """

    def load(self, drawn: Drawn, tasks: slice) -> SupportBatch:
        """Copy some of the drawn tasks to the device."""
