"""The tasks of a meta-iteration: drawn ahead on the CPU, then copied to the device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from kshot.learner import cycling_indices, derive_seed, replacement_indices
from kshot.trainer.datasets.augmentation import Changes
from kshot.trainer.recipe.recipe import Inner


@dataclass(frozen=True)
class SupportBatch:
    """T tasks of n examples.

    `inputs` are float32 `(T, n, channels, height, width)` or, of images that are only drawn, int64
    rows of the data set `(T, n)`; `targets` `(T, n)` are int64 classes or float32 values; `indices`
    int64 `(T, steps, batch)` are the examples, of n, that each inner step sees. With a separate
    tail, `tail` `(T, tail batch)` are the examples of one more, last step; where that is answered
    like queries, `early` `(T, n - tail batch)` are all others. `changes` of `(T, n)` images are
    still to be made.
    """

    inputs: Tensor
    targets: Tensor
    indices: Tensor
    tail: Tensor | None = None
    early: Tensor | None = None
    changes: Changes | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return int(self.inputs.shape[0])

    def part(self, tasks: slice) -> SupportBatch:
        """Return some of the tasks."""
        drawn: dict[str, Tensor | Changes | None] = vars(self)
        parts: dict[str, Any] = {
            name: value.part(tasks) if isinstance(value, Changes) else value[tasks]
            for name, value in drawn.items()
            if value is not None
        }
        return replace(self, **parts)

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


class TrainingTasks(Protocol):
    """A source of training tasks."""

    def draw(self, meta_iteration: int) -> SupportBatch:
        """Draw the tasks of a meta-iteration on the CPU; they depend on its number alone.

        Another thread calls this.
        """

    def load(self, drawn: SupportBatch, tasks: slice) -> SupportBatch:
        """Copy some of the drawn tasks to the device."""


def draw_indices(
    inner: Inner, example_count: int, step_count: int, task_count: int, seed: int
) -> Tensor:
    """Draw the examples that each inner step of each task sees: `(T, steps, batch)`."""
    deal = cycling_indices if inner.sampling == "cycling" else replacement_indices
    seeds = (derive_seed(seed, number) for number in range(task_count))
    return torch.stack([deal(example_count, inner.batch_size, step_count, own) for own in seeds])
