import math

import pytest
import torch

from kshot.bundle import Preconditioner
from kshot.learner import StepRule

GRADIENT = torch.tensor([[0.3, -2.0, 1e-3, 0.0]], dtype=torch.float64)
START = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
MOMENT = torch.tensor([[0.04, 0.25, 1e-4, 1.0]], dtype=torch.float64)


def _step(rule: StepRule, moment: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return parameters and scale after one update."""
    (size,) = rule.step_sizes(step, 1)
    moved, scale = START.clone(), rule.scale_of(moment)
    rule.update(moved, scale, GRADIENT, torch.tensor([[size]], dtype=torch.float64))
    return moved, scale


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

    moved, scale = _step(rule, MOMENT, 500_000)

    assert rule.steps_taken(500_000, 3) == 500_000
    assert scale.equal(rule.scale_of(MOMENT))
    expected = START - 0.01 * GRADIENT / (MOMENT.sqrt() + 1e-8)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-15)


def test_sgd_follows_the_gradient() -> None:
    moved, scale = _step(StepRule(Preconditioner.SGD, 0.5), MOMENT, 9)

    assert scale.equal(torch.ones_like(MOMENT))
    torch.testing.assert_close(moved, START - 0.5 * GRADIENT, rtol=0, atol=0)


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
def test_a_zero_gradient_moves_nothing(preconditioner: Preconditioner) -> None:
    rule = StepRule(preconditioner, 0.1)
    moved = START.clone()

    rule.update(
        moved, rule.scale_of(MOMENT), torch.zeros_like(START), torch.full((1, 1), 0.1).double()
    )

    assert moved.equal(START)


@pytest.mark.parametrize("preconditioner", list(Preconditioner))
def test_the_scale_is_a_tensor_of_its_own(preconditioner: Preconditioner) -> None:
    """It is updated in place, and the second moment it comes from may be every task's."""
    moment = MOMENT.clone()

    scale = StepRule(preconditioner, 0.1).scale_of(moment)

    scale.zero_()
    assert moment.equal(MOMENT)


def test_each_task_has_its_own_step_size() -> None:
    rule = StepRule(Preconditioner.SGD, 1.0)
    moved = START.repeat(2, 1)

    rule.update(
        moved, torch.ones_like(moved), GRADIENT.repeat(2, 1), torch.tensor([[0.5], [0.0]]).double()
    )

    assert moved[0].equal(START[0] - 0.5 * GRADIENT[0])
    assert moved[1].equal(START[0])


def test_step_sizes_follow_adams_step() -> None:
    fresh, frozen = StepRule(Preconditioner.FRESH, 0.1), StepRule(Preconditioner.FROZEN, 0.1)

    assert fresh.step_sizes(0, 3) == [0.1 * math.sqrt(1 - 0.999**step) for step in (1, 2, 3)]
    assert frozen.step_sizes(7, 2) == [0.1 * math.sqrt(1 - 0.999**7)] * 2
    assert fresh.step_sizes(5, 0) == []
