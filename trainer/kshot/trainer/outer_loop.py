"""The outer loop: how adapted parameters move the initialization (Reptile)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner import (
    InnerStep,
    LoopState,
    ParameterLayout,
    StepRule,
    cycling_indices,
    derive_seed,
    run_inner_loop,
)
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.episodes import EpisodeBatch, sample_episodes
from kshot.trainer.pixels import DevicePixels
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

    def advance(self, state: OuterState) -> tuple[OuterState, Tensor]:
        """Do one meta-iteration; return the new state and the mean loss of its inner steps.

        Everything random follows from the recipe's seed and the meta-iteration's number, so that a
        resumed training draws what an uninterrupted one would have drawn.
        """
        outer = self.recipe.outer
        seed = derive_seed(outer.seed, state.meta_iteration)
        episodes = sample_episodes(
            self.dataset,
            outer.meta_batch_size,
            self.recipe.task.way,
            self.recipe.task.shot,
            0,
            torch.Generator().manual_seed(seed),
        )
        adapt = self._adapt_serially if outer.second_moment == "serial" else self._adapt_together
        displacement, second_moment, step, loss = adapt(state, episodes, seed)
        size = meta_step_size(
            outer.meta_step_size,
            outer.meta_step_size_final,
            state.meta_iteration,
            outer.meta_iterations,
        )
        moved = state.parameters + size * displacement
        return OuterState(moved, second_moment, step, state.meta_iteration + 1), loss

    def _adapt_serially(
        self, state: OuterState, episodes: EpisodeBatch, seed: int
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Adapt to one task after another, v carried from each to the next, as the paper's code."""
        second_moment, step = state.second_moment, state.step
        displacement = torch.zeros_like(state.parameters)
        losses = []
        for task in range(len(episodes)):
            adapted, loss = self._run(
                LoopState(self.layout, state.parameters[None], second_moment[None], step),
                episodes.support[task : task + 1],
                episodes.support_classes[task : task + 1],
                [derive_seed(seed, task)],
            )
            displacement += adapted.parameters[0] - state.parameters
            second_moment, step = adapted.second_moment[0], adapted.step
            losses.append(loss)
        return displacement / len(episodes), second_moment, step, torch.stack(losses).mean()

    def _adapt_together(
        self, state: OuterState, episodes: EpisodeBatch, seed: int
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Adapt to all tasks side by side from the same v; the next v is the mean of theirs."""
        task_count = len(episodes)
        adapted, loss = self._run(
            LoopState(
                self.layout,
                state.parameters.expand(task_count, -1),
                state.second_moment.expand(task_count, -1),
                state.step,
            ),
            episodes.support,
            episodes.support_classes,
            [derive_seed(seed, task) for task in range(task_count)],
        )
        displacement = adapted.parameters.mean(dim=0) - state.parameters
        return displacement, adapted.second_moment.mean(dim=0), adapted.step, loss

    def _run(
        self, state: LoopState, rows: Tensor, classes: Tensor, seeds: list[int]
    ) -> tuple[LoopState, Tensor]:
        inner = self.recipe.inner
        support = self.pixels.take(rows)
        indices = torch.stack(
            [
                cycling_indices(rows.shape[1], inner.batch_size, inner.step_count, seed)
                for seed in seeds
            ]
        )
        result = run_inner_loop(
            self.inner_step,
            state,
            support,
            classes.to(support.device),
            indices.to(support.device),
            self.rule,
            watch_divergence=False,
        )
        return result.state, result.losses.mean()


def meta_step_size(start: float, final: float, meta_iteration: int, meta_iterations: int) -> float:
    """Anneal linearly: ``start (1 - i / N) + final i / N`` before the i-th outer update."""
    progress = meta_iteration / meta_iterations
    return start * (1 - progress) + final * progress
