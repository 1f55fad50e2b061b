"""The outer loop: how adapted parameters move the initialization (Reptile)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner import InnerStep, LoopState, ParameterLayout, StepRule, run_inner_loop
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.meta_batch import MetaBatch, draw_meta_batch
from kshot.trainer.pixels import DevicePixels, to_device
from kshot.trainer.recipe import Recipe


@dataclass(frozen=True)
class OuterState:
    """What training has learned so far.

    ``parameters`` and ``second_moment`` are ``(P,)``; ``step`` is Adam's t, ``meta_iteration`` the
    number of meta-iterations done.
    """

    parameters: Tensor
    second_moment: Tensor
    step: int
    meta_iteration: int


@dataclass(frozen=True)
class OuterLoop:
    """One meta-training: a recipe over a data set whose pixels live on the training's device."""

    recipe: Recipe
    dataset: ImageDataset
    pixels: DevicePixels
    layout: ParameterLayout
    rule: StepRule
    inner_step: InnerStep

    def draw(self, meta_iteration: int) -> MetaBatch:
        """Draw the tasks of a meta-iteration; a function of its number, and of nothing before."""
        return draw_meta_batch(self.recipe, self.dataset, meta_iteration)

    def advance(
        self, state: OuterState, tasks: MetaBatch | None = None
    ) -> tuple[OuterState, Tensor]:
        """Do one meta-iteration; return the new state and the mean loss of its inner steps.

        ``tasks`` are those of ``draw``, drawn here where they were not drawn ahead. On a GPU
        nothing here waits for the device.
        """
        outer = self.recipe.outer
        if tasks is None:
            tasks = self.draw(state.meta_iteration)
        device = state.parameters.device
        support = self.pixels.take(tasks.rows)
        classes, indices = to_device(tasks.classes, device), to_device(tasks.indices, device)
        adapt = self._adapt_serially if outer.second_moment == "serial" else self._adapt_together
        displacement, second_moment, step, loss = adapt(state, support, classes, indices)
        size = meta_step_size(
            outer.meta_step_size,
            outer.meta_step_size_final,
            state.meta_iteration,
            outer.meta_iterations,
        )
        moved = state.parameters + size * displacement
        return OuterState(moved, second_moment, step, state.meta_iteration + 1), loss

    def _adapt_serially(
        self, state: OuterState, support: Tensor, classes: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Adapt to one task after another, v carried from each to the next, as the paper's code."""
        second_moment, step = state.second_moment, state.step
        displacement = torch.zeros_like(state.parameters)
        losses = []
        task_count = len(indices)
        for task in range(task_count):
            one = slice(task, task + 1)
            start = LoopState(self.layout, state.parameters[None], second_moment[None], step)
            adapted, loss = self._run(start, support[one], classes[one], indices[one])
            displacement += adapted.parameters[0] - state.parameters
            second_moment, step = adapted.second_moment[0], adapted.step
            losses.append(loss)
        return displacement / task_count, second_moment, step, torch.stack(losses).mean()

    def _adapt_together(
        self, state: OuterState, support: Tensor, classes: Tensor, indices: Tensor
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Adapt to all tasks side by side from the same v; the next v is the mean of theirs."""
        task_count = len(indices)
        # Copied, not expanded: the first inner step then has the strides of those that follow.
        parameters, second_moment = (
            vector.repeat(task_count, 1) for vector in (state.parameters, state.second_moment)
        )
        start = LoopState(self.layout, parameters, second_moment, state.step)
        adapted, loss = self._run(start, support, classes, indices)
        displacement = adapted.parameters.mean(dim=0) - state.parameters
        return displacement, adapted.second_moment.mean(dim=0), adapted.step, loss

    def _run(
        self, state: LoopState, support: Tensor, classes: Tensor, indices: Tensor
    ) -> tuple[LoopState, Tensor]:
        result = run_inner_loop(
            self.inner_step, state, support, classes, indices, self.rule, watch_divergence=False
        )
        return result.state, result.losses.mean()


def meta_step_size(start: float, final: float, meta_iteration: int, meta_iterations: int) -> float:
    """Anneal linearly: ``start (1 - i / N) + final i / N`` before the i-th outer update."""
    progress = meta_iteration / meta_iterations
    return start * (1 - progress) + final * progress
