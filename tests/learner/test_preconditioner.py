import math

import pytest
import torch

from kshot.bundle import Preconditioner
from kshot.learner import StepRule

GRADIENT = torch.tensor([[0.3, -2.0, 1e-3, 0.0]], dtype=torch.float64)
START = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
MOMENT = torch.tensor([[0.04, 0.25, 1e-4, 1.0]], dtype=torch.float64)


def _step(rule: StepRule, moment: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = torch.tensor(rule.step_size(rule.steps_taken(step, 1)), dtype=torch.float64)
    return rule.update(START, moment, GRADIENT, size)


def test_first_fresh_step_is_the_rate_times_the_sign() -> None:
    rule = StepRule(Preconditioner.FRESH, 0.01, epsilon=1e-12)

    moved, _ = _step(rule, torch.zeros_like(START), 0)

    torch.testing.assert_close(moved - START, -0.01 * GRADIENT.sign(), rtol=0, atol=1e-9)


def test_carried_step_is_tensorflows_adam_without_momentum() -> None:
    """TensorFlow: lr sqrt(1 - b2^t) g / (sqrt(v) + epsilon), epsilon outside the correction."""
    rule = StepRule(Preconditioner.CARRIED, 0.01, epsilon=1e-3)

    moved, moment = _step(rule, MOMENT, 6)

    expected_moment = 0.999 * MOMENT + 0.001 * GRADIENT**2
    size = 0.01 * math.sqrt(1 - 0.999**7)
    expected = START - size * GRADIENT / (expected_moment.sqrt() + 1e-3)
    torch.testing.assert_close(moment, expected_moment, rtol=0, atol=1e-15)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-15)


def test_correction_is_one_after_training() -> None:
    assert StepRule(Preconditioner.CARRIED, 0.001).step_size(500_000) == 0.001


def test_frozen_keeps_the_second_moment_and_the_step() -> None:
    rule = StepRule(Preconditioner.FROZEN, 0.01)

    moved, moment = _step(rule, MOMENT, 500_000)

    assert rule.steps_taken(500_000, 3) == 500_000
    assert moment is MOMENT
    expected = START - 0.01 * GRADIENT / (MOMENT.sqrt() + 1e-8)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-15)


def test_sgd_follows_the_gradient() -> None:
    moved, moment = _step(StepRule(Preconditioner.SGD, 0.5), MOMENT, 9)

    assert moment is MOMENT
    torch.testing.assert_close(moved, START - 0.5 * GRADIENT, rtol=0, atol=0)


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
def test_a_zero_gradient_moves_nothing(preconditioner: Preconditioner) -> None:
    rule = StepRule(preconditioner, 0.1)

    moved, _ = rule.update(START, MOMENT, torch.zeros_like(START), torch.tensor(0.1).double())

    assert moved.equal(START)
