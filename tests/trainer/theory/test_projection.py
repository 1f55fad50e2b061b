"""Reptile as a search for the point nearest to all tasks' solutions, the paper's second view of it.

Each task's solutions are an affine subspace W, and the inner loop projects onto it exactly: the
rows ``(x, 1)`` of its support set are orthogonal and equally long, so that one step of the fitting
rate solves the least squares problem.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kshot.learner import Network
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.tasks.training_tasks import SupportBatch

Loops = Callable[..., OuterLoop]
States = Callable[[Tensor], OuterState]

INPUTS, EXAMPLES, TASKS = 6, 3, 5
LENGTH = 4.0  # of each row (x, 1), squared
RATE = EXAMPLES / (2 * LENGTH)


def tasks_of(step_count: int) -> SupportBatch:
    generator = torch.Generator().manual_seed(8)
    directions = torch.randn(TASKS, INPUTS, EXAMPLES, generator=generator, dtype=torch.float64)
    orthonormal = torch.linalg.qr(directions).Q.transpose(1, 2)
    # x_i x_j + 1 is LENGTH where i = j, else 0
    gram = LENGTH * torch.eye(EXAMPLES, dtype=torch.float64) - 1
    inputs = torch.linalg.cholesky(gram) @ orthonormal
    targets = torch.randn(TASKS, EXAMPLES, generator=generator, dtype=torch.float64)
    indices = torch.arange(EXAMPLES).expand(TASKS, step_count, -1)
    return SupportBatch(inputs[:, :, None, None], targets, indices)


def squared_distances(parameters: Tensor, tasks: SupportBatch) -> Tensor:
    """Compute ``D(phi, W)^2`` of each task by the pseudoinverse: ``(T,)``."""
    rows = torch.cat(
        [tasks.inputs.flatten(2), torch.ones(TASKS, EXAMPLES, 1, dtype=torch.float64)], dim=2
    )
    errors = rows @ parameters - tasks.targets
    away = torch.linalg.pinv(rows) @ errors.unsqueeze(2)  # (T, P, 1), from phi's projection to phi
    return away.square().sum(dim=(1, 2))


def half_mean_squared_distance(parameters: Tensor, tasks: SupportBatch) -> Tensor:
    return squared_distances(parameters, tasks).mean() / 2


@pytest.fixture
def start() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(INPUTS + 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("step_count", [1, 3])
def test_reptile_descends_half_the_mean_squared_distance(
    linear: Callable[[int], Network],
    loop_of: Loops,
    state_of: States,
    start: Tensor,
    step_count: int,
) -> None:
    """``phi <- phi - eps d/dphi 1/2 E D(phi, W)^2``, also where further steps find nothing to do.

    Float64, 1e-12.
    """
    tasks = tasks_of(step_count)
    loop = loop_of(linear(INPUTS), "reptile", tasks, learning_rate=RATE, meta_step_size=0.3)

    advanced, _ = loop.advance(state_of(start))

    gradient = torch.func.grad(half_mean_squared_distance)(start, tasks)
    assert gradient.norm() > 0.1
    torch.testing.assert_close(advanced.parameters, start - 0.3 * gradient, atol=1e-12, rtol=0)


def test_reptile_ends_where_the_mean_squared_distance_is_least(
    linear: Callable[[int], Network], loop_of: Loops, state_of: States, start: Tensor
) -> None:
    """There its gradient is zero; 300 meta-iterations come within 1e-8."""
    tasks = tasks_of(1)
    loop = loop_of(
        linear(INPUTS), "reptile", *[tasks] * 300, learning_rate=RATE, meta_step_size=1.0
    )
    state = state_of(start)
    for _ in range(300):
        state, _ = loop.advance(state)

    gradient = torch.func.grad(half_mean_squared_distance)(state.parameters, tasks)
    assert gradient.norm() < 1e-8
    assert squared_distances(state.parameters, tasks).max() > 1e-2  # no point solves all tasks


def test_a_shared_tail_has_nothing_to_say_after_a_projection(
    linear: Callable[[int], Network], loop_of: Loops, state_of: States, start: Tensor
) -> None:
    """The last step sees examples that are fitted already; float64, 1e-14."""
    loop = loop_of(linear(INPUTS), "fomaml", tasks_of(2), learning_rate=RATE)

    advanced, _ = loop.advance(state_of(start))

    torch.testing.assert_close(advanced.parameters, start, atol=1e-14, rtol=0)
