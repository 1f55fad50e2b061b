from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from studies.common.results import read_result
from studies.figures.command import figure_command
from studies.figures.figure import Figure
from studies.figures.figure3 import FIGURE as FIGURE3
from studies.figures.sine import FIGURE as SINE


def run(figure: Figure, *words: str) -> Result:
    return CliRunner().invoke(figure_command(figure), words)


def colours(path: Path) -> int:
    """Count the saturated colours of a picture that cover more than a few pixels."""
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels // 32, axis=0, return_counts=True)
    return int(((np.ptp(found, axis=1) >= 3) & (counts > 20)).sum())


@pytest.mark.usefixtures("noise_is_the_data")
def test_figure_runs_and_resumes(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    settings = [*tiny, "evaluation.interval=20000"]
    words = ["--arms", "g1,g1-g2", "--scale", "0.0001", "--tasks", "3", "--device", "cpu"]
    words += ["--no-compile", "--data", str(tmp_path), "--out", str(out)]
    words += [word for setting in settings for word in ("--set", setting)]

    first = run(FIGURE3, *words)
    files = {path.name: path.read_bytes() for path in out.glob("figure3.*")}
    refused = run(FIGURE3, *words)
    again = run(FIGURE3, *words, "--resume")

    assert (first.exit_code, refused.exit_code, again.exit_code) == (0, 2, 0)
    assert "expected an empty or new folder" in refused.stderr
    told = first.stdout.splitlines()
    assert told[-2:] == [str(out / "figure3.json"), str(out / "figure3.png")]
    assert told[0].startswith("g1 makes no progress: ")
    assert {path.name: path.read_bytes() for path in out.glob("figure3.*")} == files
    result = read_result(out / "figure3.json")
    assert [row["name"] for row in result.rows] == ["start", "g1", "g1-g2"]
    assert [claim["text"] for claim in result.more["orderings"]] == [
        "g1 makes no progress",
        "g1 < g1 + g2",
    ]
    assert result.rows[1]["meta_iterations"] == 4
    points = result.more["curves"]["g1"][0]["points"]
    assert [point["meta_iteration"] for point in points] == [0, 2, 4]
    assert colours(out / "figure3.png") >= 2


@pytest.mark.parametrize(
    ("figure", "words", "message"),
    [
        (SINE, ["--arms", "g1"], "got g1"),
        (SINE, ["--set", "a.b=1"], "a: unknown key"),
        *(
            (SINE, [option, value], f"'{option}': expected a number above 0 and at most 1e+06")
            for option in ("--scale", "--step-scale")
            for value in ("0", "-1", "nan", "inf", "1e307")
        ),
        (SINE, ["--scale", "half"], "'half' is not a valid float"),
        (FIGURE3, [], "--data"),
    ],
)
def test_misuse_is_refused(
    figure: Figure,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KSHOT_DATA", raising=False)

    refused = run(figure, "--out", "x", *words)

    assert refused.exit_code == 2
    assert message in " ".join(refused.stderr.split())
    assert not list(tmp_path.iterdir())


def test_reptile_learns_waves_and_joint_training_does_not(tmp_path: Path) -> None:
    """Six waves a meta-iteration and a larger outer step for both show it in few iterations.

    The differences by task after 32 steps are about 1.3 on average, their interval about 0.3 wide.
    """
    words = ["--arms", "reptile,joint", "--scale", "0.014", "--tasks", "200", "--device", "cpu"]
    words += ["--set", "outer.meta_batch=stacked", "--set", "outer.meta_batch_size=6"]
    words += ["--set", "outer.meta_step_size=0.8", "--set", "evaluation.interval=30000"]

    done = run(SINE, *words, "--no-compile", "--out", str(tmp_path))

    assert done.exit_code == 0
    told = done.stdout.splitlines()
    assert told[1].startswith("joint training is above a tenth of the zero function's error: holds")
    assert told[2].startswith("Reptile is below joint training: holds")
    start, reptile, joint = (row["scores"] for row in read_result(tmp_path / "sine.json").rows)
    assert start["zero"]["mean"] == pytest.approx(4.2517, abs=0.8)  # of 200 tasks
    assert reptile["zero"] == joint["zero"]
    assert reptile["32_steps"]["mean"] < 0.4 * reptile["zero"]["mean"]
    assert colours(tmp_path / "sine.png") >= 2
