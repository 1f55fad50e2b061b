from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kshot.trainer.errors import OtherTrainingError
from kshot.trainer.loop.run import TrainingReport
from studies.figures.best import FIGURE as BEST
from studies.figures.figure import Figure, RunSettings
from studies.figures.figure3 import FIGURE as FIGURE3
from studies.figures.training import Outcome, run_figure

pytestmark = pytest.mark.usefixtures("noise_is_the_data")
Settings = Callable[..., RunSettings]


class Listener:
    """Notes each training and its reports, and interrupts at a report."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.heard: list[tuple[str, int]] = []
        self._stop_at = stop_at
        self._said = ""

    def say(self, sentence: str) -> None:
        self._said = sentence

    def report(self, report: TrainingReport) -> None:
        self.heard.append((self._said, report.meta_iteration))
        if self.heard[-1] == self._stop_at:
            raise KeyboardInterrupt


def run(figure: Figure, settings: RunSettings, listener: Listener | None = None) -> list[Outcome]:
    listener = listener or Listener()
    return run_figure(figure, settings, listener.report, listener.say)


def scores(outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        item.arm.name: {name: values.tolist() for name, values in item.scores.items()}
        for item in outcomes
    }


def test_interrupted_arm_resumes(settings: Settings, tmp_path: Path) -> None:
    """The two arms have four meta-iterations each; the second one is stopped in its middle."""
    whole = run(FIGURE3, settings(out=tmp_path / "whole"))
    stopped, resumed, again = Listener(stop_at=("g2/seed-0", 2)), Listener(), Listener()
    parts = settings(out=tmp_path / "parts")

    with pytest.raises(KeyboardInterrupt):
        run(FIGURE3, parts, stopped)
    outcomes = run(FIGURE3, parts, resumed)

    assert resumed.heard == [("g2/seed-0", 3), ("g2/seed-0", 4)]
    assert scores(outcomes) == scores(whole)
    assert scores(run(FIGURE3, parts, again)) == scores(whole)
    assert again.heard == []


def test_scores_are_kept_for_equal_training_and_tasks(settings: Settings, tmp_path: Path) -> None:
    """A finished arm's scores are taken from its file, which has the bytes of earlier builds."""
    first = run(FIGURE3, settings(arms=("g1",)))
    path = tmp_path / "g1" / "seed-0" / "scores.json"
    kept = json.loads(path.read_bytes())
    values = first[1].scores
    assert json.dumps(kept).encode() == path.read_bytes()
    assert list(kept) == ["identity", "query_count", "scores", "picture"]
    assert kept["scores"] == {name: values[name][0].tolist() for name in values}

    kept["scores"]["support"] = [0.5, 0.5, 1.0]
    path.write_text(json.dumps(kept))

    assert run(FIGURE3, settings(arms=("g1",)))[1].scores["support"].tolist() == [[0.5, 0.5, 1.0]]
    path.write_text(json.dumps({**kept, "identity": "another"}))
    assert scores(run(FIGURE3, settings(arms=("g1",)))) == scores(first)


def test_finished_arms_are_scored_on_new_tasks(settings: Settings) -> None:
    first, again = run(FIGURE3, settings(seed_count=2)), Listener()

    outcomes = run(FIGURE3, settings(task_count=4), again)

    assert again.heard == []
    assert all(values.shape == (1, 4) for values in outcomes[1].scores.values())
    _, g1, g2 = first
    for seed in (0, 1):  # arms of a seed start alike
        assert g1.curves[seed][0] == g2.curves[seed][0]
    for item in first:
        assert {name: len(of) for name, of in item.scores.items()} == {
            "support": 2,
            "transductive": 2,
        }
        assert item.query_count == 25


def test_failed_training_is_named(settings: Settings) -> None:
    run(FIGURE3, settings(arms=("g1",)))

    with pytest.raises(OtherTrainingError, match=r"g1/seed-0: checkpoint "):
        run(FIGURE3, settings(arms=("g1",), step_scale=2.0))


def test_part_decides_the_compared_classes(settings: Settings, tmp_path: Path) -> None:
    """On validation and on test classes an arm has other scores, and curves of other names."""
    assert BEST.part == "val"
    made = settings(arms=("prototypes",), overrides=[*settings().overrides, "task.way=3"])
    found = {}
    for part in ("val", "test"):
        of = replace(BEST, part=part)
        _, outcome = run(of, replace(made, out=tmp_path / part))
        assert f"accuracy/{part}/support" in outcome.curves[0][0]
        found[part] = scores([outcome])

    assert found["val"] != found["test"]
