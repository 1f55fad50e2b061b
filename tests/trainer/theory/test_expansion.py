"""The outer gradients to leading order: what the paper's analysis says of the code's algorithms.

``g_i`` is the gradient of the i-th mini-batch's loss where the inner loop is then, ``gbar_i`` that
at its start, ``H_i`` the Hessian there. AvgGrad is the mean of ``gbar_i`` over mini-batches,
AvgGradInner that of ``H_i gbar_j`` over ordered pairs of different ones. Expectations are exact: a
task for every order in which five mini-batches can be drawn.
"""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from kshot.learner import Network, Objective, layout_of, loss_gradients
from kshot.trainer.loop.outer_loop import OuterLoop
from kshot.trainer.loop.outer_state import OuterState
from kshot.trainer.tasks.training_tasks import SupportBatch

Loops = Callable[..., OuterLoop]
States = Callable[[Tensor], OuterState]

BATCHES, SIZE = 5, 3
GENERATOR = torch.Generator().manual_seed(4)
START = torch.randn(4, generator=GENERATOR, dtype=torch.float64)
X = torch.randn(BATCHES, SIZE, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(BATCHES, SIZE, generator=GENERATOR, dtype=torch.float64)
# AvgGrad and minus a times AvgGradInner count so often, k steps
COEFFICIENTS = {
    "maml": lambda k: (1, 2 * (k - 1)),
    "fomaml": lambda k: (1, k - 1),
    "reptile": lambda k: (k, k * (k - 1) / 2),
}


def loss(vector: Tensor, batch: int) -> Tensor:
    """Compute a mini-batch's loss, written out."""
    outputs = vector[2] * torch.tanh(X[batch] @ vector[:2]) + vector[3]
    return (outputs - Y[batch]).square().mean()


def gradient(batch: int) -> Tensor:
    return torch.func.grad(loss)(START, batch)


def hessian(batch: int) -> Tensor:
    return torch.func.jacrev(torch.func.grad(loss))(START, batch)


def average_gradient() -> Tensor:
    return torch.stack([gradient(batch) for batch in range(BATCHES)]).mean(dim=0)


def average_gradient_inner() -> Tensor:
    pairs = permutations(range(BATCHES), 2)
    return torch.stack([hessian(i) @ gradient(j) for i, j in pairs]).mean(dim=0)


def tasks_of(orders: list[tuple[int, ...]]) -> SupportBatch:
    """Make one task of each order of mini-batches."""
    rows = torch.arange(BATCHES * SIZE).reshape(BATCHES, SIZE)
    inputs = X.reshape(1, -1, 1, 1, 2).expand(len(orders), -1, -1, -1, -1)
    targets = Y.reshape(1, -1).expand(len(orders), -1)
    return SupportBatch(inputs, targets, torch.stack([rows[list(order)] for order in orders]))


@pytest.fixture
def outer_gradient(
    curved: Network, loop_of: Loops, state_of: States
) -> Callable[[str, list[tuple[int, ...]], float], Tensor]:
    """Return a function to the mean gradient of an algorithm: its displacement over ``-a``."""

    def measure(algorithm: str, orders: list[tuple[int, ...]], learning_rate: float) -> Tensor:
        loop = loop_of(curved, algorithm, tasks_of(orders), learning_rate=learning_rate)
        advanced, _ = loop.advance(state_of(START))
        return (START - advanced.parameters) / learning_rate

    return measure


Measure = Callable[[str, list[tuple[int, ...]], float], Tensor]


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml", "maml", "joint"])
def test_with_one_step_every_algorithm_is_joint_training(
    outer_gradient: Measure, algorithm: str
) -> None:
    """Float64, 1e-13."""
    measured = outer_gradient(algorithm, [(batch,) for batch in range(BATCHES)], 0.1)

    torch.testing.assert_close(measured, average_gradient(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("step_count", [2, 3, 4, 5])
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile"])
def test_the_outer_gradient_is_avg_grad_less_so_much_avg_grad_inner(
    outer_gradient: Measure, algorithm: str, step_count: int
) -> None:
    """Least squares finds the coefficients within 0.5 %, for they are exact to O(a).

    What the formula leaves is O(a^2): it falls by 100, within 5 %, where a falls by 10.
    """
    orders = list(permutations(range(BATCHES), step_count))
    grad, inner = average_gradient(), average_gradient_inner()
    wanted = COEFFICIENTS[algorithm](step_count)
    residuals = []
    for rate in (1e-3, 1e-4):
        measured = outer_gradient(algorithm, orders, rate)
        left = measured - wanted[0] * grad + wanted[1] * rate * inner
        residuals.append(left.norm().item())

    found = torch.linalg.lstsq(torch.stack([grad, -rate * inner], dim=1), measured).solution
    assert found.tolist() == pytest.approx(wanted, rel=5e-3)
    assert residuals[0] / residuals[1] == pytest.approx(100, rel=0.05)


def test_avg_grad_inner_is_half_the_gradient_of_the_inner_product_of_gradients(
    curved: Network,
) -> None:
    """``E[H_1 gbar_2] = 1/2 d/dphi E[gbar_1 . gbar_2]``: descending its negative makes gradients
    of different mini-batches agree. Central differences with 1e-5: 1e-8.
    """
    layout = layout_of(curved, 1)

    def agreement(vector: Tensor) -> Tensor:
        gradients, _ = loss_gradients(
            curved,
            layout,
            vector.expand(BATCHES, -1),
            X.reshape(BATCHES, SIZE, 1, 1, 2),
            Y,
            torch.ones(BATCHES, 1, dtype=torch.bool),
            objective=Objective.SQUARED_ERROR,
        )
        products = gradients @ gradients.T
        return (products.sum() - products.diagonal().sum()) / (BATCHES * (BATCHES - 1))

    shifts = 1e-5 * torch.eye(4, dtype=torch.float64)
    slopes = [(agreement(START + h) - agreement(START - h)) / 2e-5 for h in shifts]

    torch.testing.assert_close(torch.stack(slopes) / 2, average_gradient_inner(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("step_count", [2, 4])
def test_a_tail_that_was_seen_before_raises_its_own_gradients_norm_instead(
    outer_gradient: Measure, step_count: int
) -> None:
    """With all steps on one batch, ``E[H_i gbar_i] = 1/2 d/dphi E |gbar_i|^2`` takes the place of
    AvgGradInner: agreement of a batch with itself, which says nothing of other examples.
    """
    orders = [(batch,) * step_count for batch in range(BATCHES)]
    own = torch.stack([hessian(batch) @ gradient(batch) for batch in range(BATCHES)]).mean(dim=0)

    def residual(inner: Tensor, rate: float) -> float:
        expected = average_gradient() - (step_count - 1) * rate * inner
        return (outer_gradient("fomaml", orders, rate) - expected).norm().item()

    assert residual(own, 1e-3) / residual(own, 1e-4) == pytest.approx(100, rel=0.05)
    assert residual(average_gradient_inner(), 1e-3) / residual(
        average_gradient_inner(), 1e-4
    ) == pytest.approx(10, rel=0.05)
