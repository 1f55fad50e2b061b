from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.trainer.experiment import START, ZERO, Arm, Experiment, arms_of
from kshot.trainer.experiment_files import list_experiments, load_experiment
from kshot.trainer.experiment_panels import DRAWERS
from kshot.trainer.experiment_plot import draw_experiment, figure_size
from kshot.trainer.experiment_run import ArmRun, Outcome
from kshot.trainer.experiment_scores import ArmScores, Picture
from kshot.trainer.output.plotting import figure_of, write_png
from kshot.trainer.recipe.files import load_recipe

WAVE = Picture(
    [0.0, 1.0, 2.0], [0.0, 1.0, 0.0], [1.0], [1.0], {"0_steps": [0.0] * 3, "32_steps": [0.5] * 3}
)


def outcomes(experiment: Experiment, seed_count: int) -> Sequence[Outcome]:
    """Make up results: every arm a little better than the one before."""
    arms = arms_of(experiment)
    made = []
    for number, arm in enumerate([Arm(START, "start", START, ()), *arms]):
        name = arms[0].name if arm.name == START else arm.name
        recipe = load_recipe(f"{experiment.name}-{name}")
        mean = 0.3 + 0.5 * number / len(arms)
        runs = []
        for seed in range(seed_count):
            values = [mean, mean + 0.1, mean + 0.02 * seed]
            if experiment.final is None:
                scores = {
                    "0_steps": [9 * value for value in values],
                    "32_steps": values,
                    ZERO: [4.0, 4.2, 4.4],
                }
                curve = [{"meta_iteration": i, "squared_error/32_steps": mean + i} for i in (0, 1)]
            else:
                scores = {"support": values, "transductive": values}
                curve = [{"meta_iteration": i, "accuracy/test/support": mean * i} for i in (0, 1)]
            queries = 0 if experiment.final is None else 50
            picture = WAVE if experiment.final is None else None
            runs.append(ArmRun(seed, ArmScores("x", queries, scores, picture), curve))
        made.append(Outcome(arm, recipe, runs))
    return made


@pytest.mark.parametrize("name", list_experiments())
def test_every_shipped_experiment_is_drawn_in_many_colours(name: str, tmp_path: Path) -> None:
    experiment = load_experiment(name).experiment
    width, height = figure_size(experiment)
    draw = draw_experiment(experiment, outcomes(experiment, 2), "made up")

    figure = figure_of(draw, width=width, height=height)
    write_png(tmp_path / "x.png", figure)

    assert [axes.get_title() for axes in figure.axes] == [p.title for p in experiment.panels]
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert len(figure.legends) == 1
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("RGB")).reshape(-1, 3)
    coloured = pixels[np.ptp(pixels, axis=1) > 100]
    assert len(np.unique(coloured // 64, axis=0)) >= 3


def test_a_sweep_is_drawn_at_the_values_that_were_trained_with() -> None:
    made = outcomes(load_experiment("figure4").experiment, 1)

    values = {outcome.arm.name: outcome.value for outcome in made}
    assert values[START] is None
    assert values["outer-reptile-0-25"] == 0.25
    assert values["steps-shared-cycling-8"] == 8


def test_panels_of_lines_that_were_not_run_say_so() -> None:
    experiment = load_experiment("figure4").experiment
    some = [
        outcome
        for outcome in outcomes(experiment, 1)
        if outcome.arm.line in (START, "steps-reptile")
    ]

    figure = figure_of(draw_experiment(experiment, some, "made up"))

    first, second, third = figure.axes
    assert first.has_data()
    assert not first.texts
    for empty in (second, third):
        assert [text.get_text() for text in empty.texts] == ["not run"]


def test_every_kind_of_panel_has_a_drawer() -> None:
    kinds = {
        panel.kind
        for name in list_experiments()
        for panel in load_experiment(name).experiment.panels
    }

    assert kinds == set(DRAWERS)
