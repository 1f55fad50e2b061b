import math
from dataclasses import replace

import pytest
import torch

from kshot.trainer.recipe.sine import SineTask
from kshot.trainer.sine.tasks import draw_waves, grid, zero_predictor_error

TASK = SineTask((0.1, 5.0), (0.0, 2 * math.pi), (-5.0, 5.0), 50, 10)


def test_the_zero_function_errs_by_half_the_mean_squared_amplitude() -> None:
    """``E[a^2] / 2`` for a from U(0.1, 5) is 4.2517; as ``E[a^2] = variance + mean^2`` too."""
    assert zero_predictor_error(TASK) == pytest.approx(4.2517, abs=5e-5)
    assert zero_predictor_error(TASK) == pytest.approx((4.9**2 / 12 + 2.55**2) / 2, rel=1e-12)


@pytest.mark.parametrize("interval", [(-5.0, 5.0), (0.0, 1.0)])
def test_drawn_waves_have_the_zero_functions_error(interval: tuple[float, float]) -> None:
    """Whatever the grid, for the phases are whole turns: 20,000 waves, within 4 standard errors."""
    task = replace(TASK, interval=interval)
    waves = draw_waves(task, 20_000, torch.Generator().manual_seed(12))

    errors = waves.at(grid(task)).double().square().mean(dim=1)

    standard_error = errors.std().item() / math.sqrt(len(errors))
    assert standard_error < 0.05
    assert errors.mean().item() == pytest.approx(4.2517, abs=4 * standard_error)


def test_drawn_waves_stay_in_their_ranges_and_fill_them() -> None:
    waves = draw_waves(TASK, 20_000, torch.Generator().manual_seed(13))

    for drawn, (least, most) in ((waves.amplitude, TASK.amplitude), (waves.phase, TASK.phase)):
        assert least <= drawn.min() < least + 0.01 * (most - least)
        assert most - 0.01 * (most - least) < drawn.max() <= most


@pytest.mark.parametrize("phase", [(0.0, math.pi), (0.0, 3.0), (1.0, 1.0 + 2.5 * math.pi)])
def test_phases_that_are_no_whole_turns_have_no_such_constant(phase: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="expected whole turns"):
        zero_predictor_error(replace(TASK, phase=phase))


def test_two_turns_are_as_good_as_one() -> None:
    task = replace(TASK, phase=(-1.0, -1.0 + 4 * math.pi))

    assert zero_predictor_error(task) == zero_predictor_error(TASK)
