from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas
from PIL import Image

from kshot.trainer.output.plotting import write_png
from studies.common import plots
from studies.figures.figure import START, UNTRAINED, ZERO, Figure
from studies.figures.figure4 import FIGURE as FIGURE4
from studies.figures.panels import plot
from studies.figures.training import Outcome

WAVE = {
    "x": [0.0, 1.0, 2.0],
    "wanted": [0.0, 1.0, 0.0],
    "support_x": [1.0],
    "support_y": [1.0],
    "fits": {"0_steps": [0.0] * 3, "32_steps": [0.5] * 3},
}
NAMES = ("best", "figure3", "figure4", "preconditioners", "sine")


Drawn = Callable[[Figure, Sequence[Outcome], Path], Canvas]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Return a function that writes a picture, x.png, and returns its canvas."""
    kept: list[Canvas] = []

    def write(path: Path, canvas: Canvas) -> None:
        kept.append(canvas)
        write_png(path, canvas)

    monkeypatch.setattr(plots, "write_png", write)

    def draw(figure: Figure, made: Sequence[Outcome], folder: Path) -> Canvas:
        plot(folder / "x.png", figure, made, "made up")
        return kept[-1]

    return draw


def outcomes(figure: Figure, seed_count: int) -> Sequence[Outcome]:
    """Make up results: each arm a little better than the one before."""
    made = []
    for number, arm in enumerate([UNTRAINED, *figure.arms]):
        recipe = figure.recipe(figure.arms[0] if arm.name == START else arm)
        mean = 0.3 + 0.5 * number / len(figure.arms)
        values = np.array([[mean, mean + 0.1, mean + 0.02 * seed] for seed in range(seed_count)])
        scores, name = {"support": values}, f"accuracy/{figure.part}/support"
        if not figure.part:
            zero = np.array([[4.0, 4.2, 4.4]] * seed_count)
            scores = {"0_steps": 9 * values, "32_steps": values, ZERO: zero}
            name = "squared_error/32_steps"
        curves = [[{"meta_iteration": i, name: mean + i} for i in (0, 1)]] * seed_count
        made.append(Outcome(arm, recipe, 50 if figure.part else 0, scores, curves, WAVE))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_figure_is_drawn_in_many_colours(name: str, drawn: Drawn, tmp_path: Path) -> None:
    figure: Figure = import_module(f"studies.figures.{name}").FIGURE
    canvas = drawn(figure, outcomes(figure, 2), tmp_path)

    assert [axes.get_title() for axes in canvas.axes] == [panel.title for panel in figure.panels]
    assert all(axes.get_xlabel() for axes in canvas.axes)
    assert len(canvas.legends) == 1
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).reshape(-1, 3)
    coloured = pixels[np.ptp(pixels, axis=1) > 100]
    assert len(np.unique(coloured // 64, axis=0)) >= 3


def test_sweep_has_the_trained_values() -> None:
    values = {outcome.arm.name: outcome.value for outcome in outcomes(FIGURE4, 1)}

    assert values[START] is None
    assert values["outer-reptile-0-25"] == 0.25
    assert values["steps-shared-cycling-8"] == 8


def test_panel_without_lines_says_so(drawn: Drawn, tmp_path: Path) -> None:
    some = [item for item in outcomes(FIGURE4, 1) if item.arm.line in (START, "steps-reptile")]

    canvas = drawn(FIGURE4, some, tmp_path)

    first, *others = canvas.axes
    assert first.has_data()
    assert not first.texts
    for empty in others:
        assert [text.get_text() for text in empty.texts] == ["not run"]
