"""Adaptation of an initialization to test waves, and its errors."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kshot.learner import (
    Initialization,
    LoopState,
    Objective,
    build_inner_step,
    derive_seed,
    layout_of,
    logits_of,
    run_inner_loop,
)
from kshot.trainer.loop.recipe_loop import step_rule
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.tasks import draw_waves, grid
from kshot.trainer.statistics import T_METHOD, t_half_width
from kshot.trainer.tasks.seeds import SINE_EVALUATION


@dataclass(frozen=True)
class SineFits:
    """Test waves, and their fits after each number of inner steps.

    All are float32, over the same grid `x` `(grid,)`: `support` `(tasks, shot)` holds the x of each
    support set, `wanted` `(tasks, grid)` the waves, `outputs` `(len(step_counts), tasks, grid)` the
    fits.
    """

    step_counts: tuple[int, ...]
    x: Tensor
    support: Tensor
    wanted: Tensor
    outputs: Tensor

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """Return mean squared errors over the grid `(len(step_counts), tasks)`."""
        return (self.outputs - self.wanted).square().mean(dim=2).double().numpy()

    @property
    def zero_errors(self) -> npt.NDArray[np.float64]:
        """Return the errors of the zero function on the same tasks `(tasks,)`."""
        return self.wanted.square().mean(dim=1).double().numpy()

    def document(self) -> dict[str, object]:
        """Lay out means and 95 % intervals of the errors over tasks for JSON."""
        rows = zip(self.step_counts, self.errors, strict=True)
        return {
            "tasks": len(self.wanted),
            "zero_predictor": _summary(self.zero_errors),
            "rows": [{"step_count": count, **_summary(errors)} for count, errors in rows],
        }


def sine_fits(initialization: Initialization, recipe: SineRecipe) -> SineFits:
    """Adapt to all test tasks side by side, and answer after each of the recipe's step counts.

    Each step takes the whole support set, `shot` points of the grid drawn with replacement, by the
    training's rule. The tasks depend only on the evaluation's seed.
    """
    task, evaluation = recipe.task, recipe.evaluation
    device = next(iter(initialization.parameters.values())).device
    generator = torch.Generator().manual_seed(derive_seed(evaluation.seed, SINE_EVALUATION))
    waves = draw_waves(task, evaluation.task_count, generator)
    points = torch.randint(task.grid_count, (evaluation.task_count, task.shot), generator=generator)
    x = grid(task)
    support = x[points]
    inputs = support[:, :, None, None, None].to(device)
    targets = waves.at(support).to(device)
    queries = x.expand(evaluation.task_count, -1)[:, :, None, None, None].to(device)
    layout = layout_of(initialization.network, initialization.way)
    rule = step_rule(recipe.inner)
    step = build_inner_step(initialization.network, layout, rule, objective=Objective.SQUARED_ERROR)
    parameters, second_moment = (
        layout.join(named).repeat(evaluation.task_count, 1)
        for named in (initialization.parameters, initialization.second_moment)
    )
    state = LoopState(layout, parameters, second_moment, initialization.step)
    whole = torch.arange(task.shot, device=device).expand(evaluation.task_count, 1, -1)
    fits = []
    for done, count in pairwise([0, *evaluation.step_counts]):
        indices = whole.expand(-1, count - done, -1)
        state = run_inner_loop(step, state, inputs, targets, indices, rule).state
        with torch.no_grad():
            outputs, _ = logits_of(initialization.network, layout.split(state.parameters), queries)
        fits.append(outputs[..., 0].cpu())
    return SineFits(evaluation.step_counts, x, support, waves.at(x), torch.stack(fits))


def _summary(errors: npt.NDArray[np.float64]) -> dict[str, object]:
    return {
        "squared_error": float(errors.mean()),
        "ci95": t_half_width(errors),
        "ci_method": T_METHOD,
    }
