"""Sine waves as tasks of regression (Nichol et al. 2018, the case study)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner import derive_seed
from kshot.trainer.recipe.sine import SineRecipe, SineTask
from kshot.trainer.tasks.seeds import TASKS
from kshot.trainer.tasks.training_tasks import SupportBatch, draw_indices


@dataclass(frozen=True)
class SineWaves:
    """T waves `y = a sin(x + b)`; amplitude a and phase b are float32 `(T,)`."""

    amplitude: Tensor
    phase: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Return the values `(T, n)` at `x`, `(n,)` or `(T, n)`."""
        return self.amplitude[:, None] * torch.sin(x + self.phase[:, None])


@dataclass(frozen=True)
class SineTasks:
    """The tasks of a recipe: each a wave at every point of the grid, on a device."""

    recipe: SineRecipe
    device: torch.device

    def draw(self, meta_iteration: int) -> SupportBatch:
        """Draw the waves of a meta-iteration, inputs `(T, grid, 1, 1, 1)`.

        They depend only on the recipe and the meta-iteration's number.
        """
        task, inner, outer = self.recipe.task, self.recipe.inner, self.recipe.outer
        seed, count = derive_seed(outer.seed, TASKS, meta_iteration), outer.meta_batch_size
        x = grid(task)
        values = draw_waves(task, count, torch.Generator().manual_seed(seed)).at(x)
        indices = draw_indices(inner, task.grid_count, inner.step_count, count, seed)
        return SupportBatch(x.expand_as(values)[:, :, None, None, None], values, indices)

    def load(self, drawn: SupportBatch, tasks: slice) -> SupportBatch:
        """Move some of the waves to the device."""
        part = drawn.part(tasks)
        moved = (tensor.to(self.device) for tensor in (part.inputs, part.targets, part.indices))
        return SupportBatch(*moved)


def draw_waves(task: SineTask, count: int, generator: torch.Generator) -> SineWaves:
    """Draw amplitudes and phases uniformly."""
    amplitude, phase = (
        low + (high - low) * torch.rand(count, generator=generator)
        for low, high in (task.amplitude, task.phase)
    )
    return SineWaves(amplitude, phase)


def grid(task: SineTask) -> Tensor:
    """Return the evenly spaced points of a task `(grid_count,)`, including both ends."""
    return torch.linspace(*task.interval, task.grid_count)
