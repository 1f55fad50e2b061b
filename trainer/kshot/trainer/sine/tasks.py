"""Sine waves as tasks of regression (Nichol et al. 2018, the case study)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner import cycling_indices, derive_seed, replacement_indices
from kshot.trainer.recipe.sine import Range, SineRecipe, SineTask
from kshot.trainer.tasks.seeds import TASKS
from kshot.trainer.tasks.training_tasks import SupportBatch


@dataclass(frozen=True)
class SineWaves:
    """T waves `y = a sin(x + b)`; amplitude a and phase b are float32 `(T,)`."""

    amplitude: Tensor
    phase: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Return the values `(T, n)` at `x`, `(n,)` or `(T, n)`."""
        return self.amplitude[:, None] * torch.sin(x + self.phase[:, None])


@dataclass(frozen=True)
class DrawnWaves:
    """The waves of one meta-iteration, and the grid points that each inner step sees."""

    waves: SineWaves
    indices: Tensor


@dataclass(frozen=True)
class SineTasks:
    """The tasks of a recipe: each a wave at every point of the grid, on a device."""

    recipe: SineRecipe
    device: torch.device

    def draw(self, meta_iteration: int) -> DrawnWaves:
        """Draw the waves of a meta-iteration; they depend only on the recipe and its number."""
        task, inner, outer = self.recipe.task, self.recipe.inner, self.recipe.outer
        seed = derive_seed(outer.seed, TASKS, meta_iteration)
        waves = draw_waves(task, outer.meta_batch_size, torch.Generator().manual_seed(seed))
        deal = cycling_indices if inner.sampling == "cycling" else replacement_indices
        indices = [
            deal(task.grid_count, inner.batch_size, inner.step_count, derive_seed(seed, number))
            for number in range(outer.meta_batch_size)
        ]
        return DrawnWaves(waves, torch.stack(indices))

    def load(self, drawn: DrawnWaves, tasks: slice) -> SupportBatch:
        """Move some of the waves to the device: inputs `(T, grid, 1, 1, 1)`."""
        x = grid(self.recipe.task)
        values = drawn.waves.at(x)[tasks]
        inputs = x.expand_as(values)[:, :, None, None, None]
        return SupportBatch(
            inputs.to(self.device), values.to(self.device), drawn.indices[tasks].to(self.device)
        )


def draw_waves(task: SineTask, count: int, generator: torch.Generator) -> SineWaves:
    """Draw amplitudes and phases uniformly."""
    return SineWaves(
        _uniform(task.amplitude, count, generator), _uniform(task.phase, count, generator)
    )


def grid(task: SineTask) -> Tensor:
    """Return the evenly spaced points of a task `(grid_count,)`, including both ends."""
    return torch.linspace(*task.interval, task.grid_count)


def _uniform(ends: Range, count: int, generator: torch.Generator) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator)
