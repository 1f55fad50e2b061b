from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kshot.trainer.errors import OtherTrainingError
from studies.figures.best import FIGURE as BEST
from studies.figures.figure3 import FIGURE as FIGURE3
from studies.figures.figure4 import FIGURE as FIGURE4
from studies.figures.run import Outcome, RunSettings, plan, run_figure

pytestmark = pytest.mark.usefixtures("noise_is_the_data")
Settings = Callable[..., RunSettings]


@pytest.fixture
def settings(tmp_path: Path, tiny: tuple[str, ...]) -> Settings:
    """Return a function that makes settings of four meta-iterations for g1 and g2."""
    made = RunSettings(
        out=tmp_path,
        data_folder=tmp_path,
        device=torch.device("cpu"),
        compiled=False,
        scale=0.0001,
        overrides=tiny,
        arms=("g1", "g2"),
        task_count=3,
    )
    return lambda **changes: replace(made, **changes)


class Listener:
    """Notes the training and number of each report, and interrupts at a number."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.heard: list[tuple[str, int]] = []
        self._stop_at = stop_at

    def report(self, done: int, _total: int, note: str) -> None:
        self.heard.append((note.split(",")[0], done))
        if done == self._stop_at:
            raise KeyboardInterrupt


def scores(outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {item.arm.name: [run.scores.scores for run in item.runs] for item in outcomes}


def test_scales_seeds_and_settings_reach_every_arm(settings: Settings) -> None:
    planned = plan(FIGURE3, settings(seed_count=2, step_scale=2.0, scale=0.01))

    assert [(arm.name, job.recipe.outer.seed) for arm, job in planned] == [
        (name, seed) for seed in (0, 1) for name in ("start", "g1", "g2")
    ]
    for _, job in planned:
        assert job.recipe.outer.meta_iterations == 400
        assert job.recipe.outer.meta_step_size == 0.5
        assert job.recipe.evaluation.interval == 400
        assert job.recipe.network.arguments["filters"] == 4
        assert (job.tasks.task_count, job.tasks.query_count, job.tasks.part) == (3, 5, None)


def test_equal_arms_share_a_training(settings: Settings) -> None:
    planned = plan(FIGURE4, settings(arms=("steps-reptile-4", "batch-reptile", "outer-reptile")))

    folders = {arm.name: job.folder for arm, job in planned}
    assert folders["batch-reptile-25"] == folders["steps-reptile-4"]
    assert folders["outer-reptile-0-25"] == folders["batch-reptile-100"]
    assert len(set(folders.values())) == len(folders) - 2
    alone = plan(FIGURE4, settings(arms=("batch-reptile-25",)))
    assert alone == [item for item in planned if item[0].name in ("start", "batch-reptile-25")]


def test_interrupted_arm_resumes(settings: Settings, tmp_path: Path) -> None:
    """The two arms have eight meta-iterations together; the second one is stopped in its middle."""
    whole = run_figure(FIGURE3, settings(out=tmp_path / "whole"))
    stopped, resumed, again = Listener(stop_at=6), Listener(), Listener()
    parts = settings(out=tmp_path / "parts")

    with pytest.raises(KeyboardInterrupt):
        run_figure(FIGURE3, parts, report=stopped.report)
    outcomes = run_figure(FIGURE3, parts, report=resumed.report)

    assert resumed.heard == [("g2/seed-0", 7), ("g2/seed-0", 8)]
    assert scores(outcomes) == scores(whole)
    assert scores(run_figure(FIGURE3, parts, report=again.report)) == scores(whole)
    assert again.heard == []


def test_finished_arms_are_scored_on_new_tasks(settings: Settings) -> None:
    first, again = run_figure(FIGURE3, settings(seed_count=2)), Listener()

    outcomes = run_figure(FIGURE3, settings(task_count=4), report=again.report)

    assert again.heard == []
    assert all(len(values) == 4 for values in outcomes[1].runs[0].scores.scores.values())
    points = {(item.arm.name, run.seed): run.curve[0] for item in first[1:] for run in item.runs}
    for seed in (0, 1):  # arms of a seed start alike
        assert points["g1", seed] == points["g2", seed]
    for item in first:
        for run in item.runs:
            assert set(run.scores.scores) == {"support", "transductive"}
            assert run.scores.query_count == 25


def test_failed_training_is_named(settings: Settings) -> None:
    run_figure(FIGURE3, settings(arms=("g1",)))

    with pytest.raises(OtherTrainingError, match=r"g1/seed-0: checkpoint "):
        run_figure(FIGURE3, settings(arms=("g1",), step_scale=2.0))


def test_part_decides_the_compared_classes(settings: Settings, tmp_path: Path) -> None:
    """On validation and on test classes an arm has other scores, and curves of other names."""
    assert BEST.part == "val"
    made = settings(arms=("prototypes",), overrides=[*settings().overrides, "task.way=3"])
    found = {}
    for part in ("val", "test"):
        of = replace(BEST, part=part)
        _, outcome = run_figure(of, replace(made, out=tmp_path / part))
        assert f"accuracy/{part}/support" in outcome.runs[0].curve[0]
        found[part] = outcome.runs[0].scores.scores

    assert found["val"] != found["test"]
