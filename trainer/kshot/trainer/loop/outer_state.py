"""The state of a meta-training, and its outer update."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kshot.trainer.recipe.recipe import Outer

FIRST_MOMENT_DECAY = 0.9
SECOND_MOMENT_DECAY = 0.999
EPSILON = 1e-8


class OuterMoments(NamedTuple):
    """The moments of the outer Adam, both `(P,)`."""

    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class OuterState:
    """Hold `parameters` and the inner `second_moment`, both `(P,)`.

    `step` is the inner Adam's t, and `meta_iteration` the number of meta-iterations done. The outer
    `moments` exist where the outer optimizer is Adam.
    """

    parameters: Tensor
    second_moment: Tensor
    step: int
    meta_iteration: int
    moments: OuterMoments | None = None


@dataclass(frozen=True)
class Adaptations:
    """The outcome of a meta-batch: its tasks' mean displacement `(P,)`, and the next v and t.

    `loss` is the mean over all inner steps; of MAML, and of a tail that is answered like queries,
    it is the last step's alone.
    """

    displacement: Tensor
    second_moment: Tensor
    step: int
    loss: Tensor


def updated(
    state: OuterState, adaptations: Adaptations, outer: Outer, inner_learning_rate: float
) -> OuterState:
    """Take one outer step from the tasks' mean displacement d.

    "sgd": `phi <- phi + eps d`, for Reptile the step of the batched form of its paper, with eps
    annealed linearly. "adam": Adam (Kingma and Ba 2015, algorithm 1) with rate eps on the gradient
    `g = -d / a`, a the inner learning rate: of inner SGD that is the weighted sum of the inner
    gradients, as MAML's code has it.
    """
    size = meta_step_size(outer, state.meta_iteration)
    moments = state.moments
    if moments is None:
        moved = state.parameters + size * adaptations.displacement
    else:
        gradient = adaptations.displacement / -inner_learning_rate
        first = torch.lerp(moments.first, gradient, 1 - FIRST_MOMENT_DECAY)
        second = torch.lerp(moments.second, gradient.square(), 1 - SECOND_MOMENT_DECAY)
        moments = OuterMoments(first, second)
        t = state.meta_iteration + 1
        unbiased = first / (1 - FIRST_MOMENT_DECAY**t)
        spread = (second / (1 - SECOND_MOMENT_DECAY**t)).sqrt() + EPSILON
        moved = state.parameters - size * unbiased / spread
    return OuterState(
        moved, adaptations.second_moment, adaptations.step, state.meta_iteration + 1, moments
    )


def meta_step_size(outer: Outer, meta_iteration: int) -> float:
    """Anneal linearly: `start (1 - i / N) + final i / N` before the i-th outer update."""
    progress = meta_iteration / outer.meta_iterations
    return outer.meta_step_size * (1 - progress) + outer.meta_step_size_final * progress
