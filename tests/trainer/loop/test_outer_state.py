from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from kshot.trainer.loop.outer_state import (
    Adaptations,
    OuterMoments,
    OuterState,
    meta_step_size,
    updated,
)
from kshot.trainer.recipe.recipe import Outer

OUTER = Outer("reptile", "sgd", 1.0, 0.0, 1, 100_000, "serial", 0)


def schedule(start: float, final: float, count: int) -> list[float]:
    outer = replace(OUTER, meta_step_size=start, meta_step_size_final=final, meta_iterations=count)
    return [meta_step_size(outer, index) for index in range(count + 1)]


def some_state(seed: int) -> OuterState:
    generator = torch.Generator().manual_seed(seed)
    parameters, second_moment = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    return OuterState(parameters, second_moment, 3, 0)


def some_adaptations(seed: int) -> Adaptations:
    generator = torch.Generator().manual_seed(seed)
    displacement, second_moment = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    return Adaptations(displacement, second_moment, 8, torch.tensor(0.5))


def test_the_meta_step_size_falls_linearly_from_one_to_one_nth() -> None:
    """``eps_i = 1 - i / N``, ``eps_{N-1} = 1 / N`` (paper, appendix A)."""
    sizes = schedule(1.0, 0.0, 100_000)

    assert sizes[0] == 1.0
    assert all(size == 1 - index / 100_000 for index, size in enumerate(sizes))
    assert sizes[-2] == pytest.approx(1e-5, rel=1e-10)
    assert sizes[-1] == 0.0
    assert schedule(0.25, 0.25, 9)[7] == 0.25
    assert schedule(0.5, 0.1, 4)[1] == pytest.approx(float(Fraction(4, 10)), rel=1e-15)


def test_sgd_interpolates_between_the_parameters_and_the_adapted_ones() -> None:
    """With size 1 the adapted parameters themselves are the next; float64, 1e-15."""
    state, adaptations = some_state(1), some_adaptations(2)

    for size in (1.0, 0.25):
        outer = replace(OUTER, meta_step_size=size, meta_step_size_final=size)
        moved = updated(state, adaptations, outer, 0.1)
        adapted = state.parameters + adaptations.displacement

        torch.testing.assert_close(
            moved.parameters,
            (1 - size) * state.parameters + size * adapted,
            atol=1e-15,
            rtol=1e-15,
        )
        assert moved.second_moment is adaptations.second_moment
        assert (moved.step, moved.meta_iteration) == (8, 1)


def test_adam_is_torchs_on_the_displacement_over_the_inner_learning_rate() -> None:
    """Float64, 1e-12, over five updates with an annealed rate."""
    outer = replace(OUTER, optimizer="adam", meta_step_size=0.01, meta_iterations=5)
    zeros = torch.zeros(7, dtype=torch.float64)
    state = replace(some_state(1), moments=OuterMoments(zeros, zeros))
    wanted = state.parameters.clone().requires_grad_()
    optimizer = torch.optim.Adam([wanted])
    for number in range(5):
        adaptations = some_adaptations(number)
        wanted.grad = -adaptations.displacement / 0.4
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - number / 5)
        optimizer.step()
        state = updated(state, adaptations, outer, 0.4)

    torch.testing.assert_close(state.parameters, wanted.detach(), atol=1e-12, rtol=1e-12)
