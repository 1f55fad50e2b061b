from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.trainer import experiment_training
from kshot.trainer.datasets.dataset import ImageDataset

FIGURE3 = (
    *("experiment", "figure3", "--arms", "g1,g1-g2", "--scale", "0.0001", "--tasks", "3"),
    *("--set", "network.arguments.filters=4", "--set", "evaluation.task_count=2"),
    *("--set", "evaluation.step_count=1", "--set", "evaluation.interval=20000"),
    *("--device", "cpu", "--no-compile"),
)


def colours(path: Path) -> int:
    """Count the saturated colours of a picture that cover more than a few pixels."""
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels // 32, axis=0, return_counts=True)
    return int(((np.ptp(found, axis=1) >= 3) & (counts > 20)).sum())


def test_an_experiment_runs_end_to_end_and_again_from_what_it_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    patterns: Callable[..., ImageDataset],
) -> None:
    sets = {part: patterns(7, 10, seed) for seed, part in enumerate(("train", "test"))}
    monkeypatch.setattr(
        experiment_training, "_dataset", lambda _data, _spec, _folder, part: sets[part]
    )
    out = tmp_path / "out"
    arguments = [*FIGURE3, "--data", str(tmp_path), "--out", str(out)]

    assert main(arguments) == 0
    told = capsys.readouterr().out.splitlines()
    files = {path.name: path.read_bytes() for path in out.glob("figure3.*")}
    assert main(arguments) == 2
    assert "which is not empty" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0

    assert told[-2:] == [str(out / "figure3.json"), str(out / "figure3.png")]
    assert told[0].startswith("g1 makes no progress: ")
    assert {path.name: path.read_bytes() for path in out.glob("figure3.*")} == files
    document = json.loads(files["figure3.json"])
    assert [arm["name"] for arm in document["arms"]] == ["start", "g1", "g1-g2"]
    assert [claim["text"] for claim in document["orderings"]] == [
        "g1 makes no progress",
        "g1 < g1 + g2",
    ]
    assert document["arms"][1]["meta_iterations"] == 4
    assert [point["meta_iteration"] for point in document["arms"][1]["curves"][0]["points"]] == [
        0,
        2,
        4,
    ]
    assert colours(out / "figure3.png") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["figure5", "--out", "x"], "wanted one of: best, figure3", id="name"),
        pytest.param(["sine", "--out", "x", "--arms", "g1"], "arm is 'g1', wanted", id="arm"),
        pytest.param(["sine", "--out", "x", "--set", "a.b=1"], "has no key 'a'", id="key"),
        pytest.param(["sine", "--out", "x", "--scale", "0"], "x>0", id="scale"),
        pytest.param(["figure3", "--out", "x"], "no data folder is named", id="data"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KSHOT_DATA", raising=False)

    assert main(["experiment", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_reptile_learns_sine_waves_and_joint_training_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six waves a meta-iteration and a larger outer step for both show it in few iterations.

    The differences by task after 32 steps are about 1.3 on average, their interval about 0.3 wide.
    """
    arguments = [
        *("experiment", "sine", "--arms", "reptile,joint", "--scale", "0.014", "--tasks", "200"),
        *("--set", "outer.meta_batch=stacked", "--set", "outer.meta_batch_size=6"),
        *("--set", "outer.meta_step_size=0.8", "--set", "evaluation.interval=30000"),
        *("--device", "cpu", "--no-compile", "--out", str(tmp_path)),
    ]

    assert main(arguments) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("joint training is above a tenth of the zero function's error: holds")
    assert told[2].startswith("Reptile is below joint training: holds")
    document = json.loads((tmp_path / "sine.json").read_text())
    start, reptile, joint = document["arms"]
    assert start["scores"]["zero"]["mean"] == pytest.approx(4.2517, abs=0.8)  # of 200 tasks
    assert reptile["scores"]["zero"] == joint["scores"]["zero"]
    assert reptile["scores"]["32_steps"]["mean"] < 0.4 * reptile["scores"]["zero"]["mean"]
    assert colours(tmp_path / "sine.png") >= 2
