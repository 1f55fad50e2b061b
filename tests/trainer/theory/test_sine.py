import math
from dataclasses import replace

import pytest
import torch

from kshot.trainer.recipe.sine import SineTask
from kshot.trainer.sine.tasks import draw_waves, grid

# `E[a^2] / 2` for a from U(0.1, 5), with `E[a^2] = variance + mean^2`: 4.2517.
ZERO_FUNCTION_ERROR = (4.9**2 / 12 + 2.55**2) / 2
TASK = SineTask((0.1, 5.0), (0.0, 2 * math.pi), (-5.0, 5.0), 50, 10)


@pytest.mark.parametrize("interval", [(-5.0, 5.0), (0.0, 1.0)])
def test_drawn_waves_have_the_zero_functions_error(interval: tuple[float, float]) -> None:
    """On any grid, because phases cover a whole turn: 20,000 waves, within 4 standard errors."""
    task = replace(TASK, interval=interval)
    waves = draw_waves(task, 20_000, torch.Generator().manual_seed(12))

    errors = waves.at(grid(task)).double().square().mean(dim=1)

    standard_error = errors.std().item() / math.sqrt(len(errors))
    assert standard_error < 0.05
    assert pytest.approx(4.2517, abs=5e-5) == ZERO_FUNCTION_ERROR
    assert errors.mean().item() == pytest.approx(ZERO_FUNCTION_ERROR, abs=4 * standard_error)


def test_drawn_waves_stay_in_their_ranges_and_fill_them() -> None:
    waves = draw_waves(TASK, 20_000, torch.Generator().manual_seed(13))

    for drawn, (least, most) in ((waves.amplitude, TASK.amplitude), (waves.phase, TASK.phase)):
        assert least <= drawn.min() < least + 0.01 * (most - least)
        assert most - 0.01 * (most - least) < drawn.max() <= most
