from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from kshot.trainer import experiment_training
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import OtherTrainingError, RecipeError
from kshot.trainer.experiment_files import load_experiment, parse_experiment
from kshot.trainer.experiment_run import Outcome, RunSettings, plan, run_experiment
from kshot.trainer.loop.run import TrainingReport

TINY = (
    "network.arguments.filters=4",
    "evaluation.task_count=2",
    "evaluation.step_count=1",
    "evaluation.checkpoint_interval=1",
    "evaluation.interval=40000",
)
SINE = ("evaluation.interval=30000",)


def settings(out: Path, **changes: object) -> RunSettings:
    made: dict[str, object] = {
        "out": out,
        "data_folder": out,
        "device": "cpu",
        "compiled": False,
        "scale": 0.0001,  # 4 meta-iterations
        "overrides": TINY,
        "arms": ("g1", "g2"),
        "task_count": 3,
    }
    return RunSettings(**{**made, **changes})  # type: ignore[arg-type] -- keywords of the tests


@pytest.fixture(autouse=True)
def patterns_are_the_data(
    monkeypatch: pytest.MonkeyPatch, patterns: Callable[..., ImageDataset]
) -> None:
    sets = {part: patterns(7, 10, seed) for seed, part in enumerate(("train", "test"))}
    monkeypatch.setattr(
        experiment_training, "_dataset", lambda _data, _spec, _folder, part: sets[part]
    )


class Follower:
    """Notes what was trained, and interrupts at a meta-iteration if it is to."""

    def __init__(self, stop_in: str = "", stop_at: int = 0) -> None:
        self.trained: list[str] = []
        self._stop = (stop_in, stop_at)

    def follow(self, name: str) -> Callable[[TrainingReport], None]:
        def hear(report: TrainingReport) -> None:
            self.trained.append(f"{name.split()[0]} {report.meta_iteration}")
            if (name.split()[0], report.meta_iteration) == self._stop:
                raise KeyboardInterrupt

        return hear


def run(made: RunSettings, follower: Follower) -> tuple[Outcome, ...]:
    return run_experiment(
        load_experiment("figure3"), made, follow=follower.follow, say=lambda _sentence: None
    )


def scores(outcomes: tuple[Outcome, ...]) -> dict[str, object]:
    return {item.arm.name: [run.scores.scores for run in item.runs] for item in outcomes}


def test_scales_seeds_and_settings_reach_every_arm(tmp_path: Path) -> None:
    made = settings(tmp_path, seed_count=2, step_scale=2.0, scale=0.01)

    planned = plan(load_experiment("figure3"), made)

    assert [(item.arm.name, item.seed) for item in planned] == [
        (name, seed) for seed in (0, 1) for name in ("start", "g1", "g2")
    ]
    for item in planned:
        recipe = item.job.recipe
        assert recipe.outer.seed == item.seed
        assert recipe.outer.meta_iterations == 400
        assert recipe.outer.meta_step_size == 0.5
        assert recipe.evaluation.interval == 400
        assert recipe.network.arguments["filters"] == 4
        assert item.job.final is not None
        assert item.job.final.task_count == 3


def test_arms_that_are_the_same_training_share_it(tmp_path: Path) -> None:
    made = settings(tmp_path, arms=("steps-reptile-4", "batch-reptile", "outer-reptile"))

    planned = plan(load_experiment("figure4"), made)

    folders = {item.arm.name: item.job.folder for item in planned}
    assert folders["batch-reptile-25"] == folders["steps-reptile-4"]
    assert folders["outer-reptile-0-25"] == folders["batch-reptile-100"]
    assert len(set(folders.values())) == len(folders) - 2
    alone = plan(load_experiment("figure4"), settings(tmp_path, arms=("batch-reptile-25",)))
    assert [item.job for item in alone] == [
        item.job for item in planned if item.arm.name in ("start", "batch-reptile-25")
    ]


def test_arms_are_compared_on_the_part_that_the_experiment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patterns: Callable[..., ImageDataset]
) -> None:
    """On validation and on test classes an arm has other scores, and curves of other names."""
    sets = {part: patterns(7, 10, seed) for seed, part in enumerate(("train", "test", "val"))}
    monkeypatch.setattr(
        experiment_training, "_dataset", lambda _data, _spec, _folder, part: sets[part]
    )
    text = (files("kshot.trainer") / "experiments" / "figure3.toml").read_text()
    of_val = text.replace("[final]", '[final]\npart = "val"')
    found = {}
    for name, experiment in (("test", text), ("val", of_val)):
        made = settings(tmp_path / name, arms=("g2",))
        _, outcome = run_experiment(
            parse_experiment(experiment.encode(), "x.toml"),
            made,
            follow=Follower().follow,
            say=lambda _sentence: None,
        )
        assert f"accuracy/{name}/support" in outcome.runs[0].curve[0]
        found[name] = outcome.runs[0].scores.scores

    assert found["val"] != found["test"]


def test_an_unknown_arm_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="arm is 'g5', wanted one of: g1, g1-g2"):
        plan(load_experiment("figure3"), settings(tmp_path, arms=("g5",)))


def test_finished_arms_are_read_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    whole = run(settings(tmp_path / "whole"), Follower())
    stopped, resumed, again = Follower("g2/seed-0", 2), Follower(), Follower()

    with pytest.raises(KeyboardInterrupt):
        run(settings(tmp_path / "parts"), stopped)
    outcomes = run(settings(tmp_path / "parts"), resumed)

    assert resumed.trained == ["g2/seed-0 3", "g2/seed-0 4"]
    assert scores(outcomes) == scores(whole)
    assert scores(run(settings(tmp_path / "parts"), again)) == scores(whole)
    assert again.trained == []


def test_other_tasks_are_scored_anew(tmp_path: Path) -> None:
    run(settings(tmp_path), Follower())
    again = Follower()

    outcomes = run(settings(tmp_path, task_count=4), again)

    assert again.trained == []
    assert all(len(values) == 4 for values in outcomes[1].runs[0].scores.scores.values())


def test_arms_of_a_seed_start_alike_and_are_scored_on_the_same_tasks(tmp_path: Path) -> None:
    outcomes = run(settings(tmp_path, seed_count=2), Follower())

    first_points = {
        (item.arm.name, run.seed): run.curve[0] for item in outcomes[1:] for run in item.runs
    }
    for seed in (0, 1):
        assert first_points["g1", seed] == first_points["g2", seed]
    assert all(
        set(run.scores.scores) == {"support", "transductive"} and run.scores.query_count == 25
        for item in outcomes
        for run in item.runs
    )


def test_a_training_that_fails_is_named(tmp_path: Path) -> None:
    run(settings(tmp_path), Follower())

    with pytest.raises(OtherTrainingError, match=r"g1/seed-0: checkpoint .* cannot be resumed"):
        run(settings(tmp_path, step_scale=2.0), Follower())


def test_arms_side_by_side_give_what_they_give_one_after_another(tmp_path: Path) -> None:
    file = load_experiment("sine")
    made = settings(tmp_path / "alone", overrides=SINE, arms=("reptile", "joint"), data_folder=None)
    side_by_side = settings(
        tmp_path / "beside",
        overrides=SINE,
        arms=("reptile", "joint"),
        data_folder=None,
        job_count=2,
    )
    said: list[str] = []

    alone = run_experiment(file, made, follow=Follower().follow, say=said.append)
    beside = run_experiment(file, side_by_side, follow=Follower().follow, say=said.append)

    assert scores(alone) == scores(beside)
    assert said[-1] == "joint/seed-0 is done (3 of 3)"
