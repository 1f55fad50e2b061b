"""`kshot bench adapt`, run in this process by the program's own entry point."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from kshot.__main__ import main
from kshot.bench import options
from kshot.bench.speed import accuracy_curve
from kshot.bench.speed.adapt_measurement import Measurement
from kshot.bundle import builtin_bundle

QUICK = ["bench", "adapt", "--step-count", "1", "--rounds", "2", "--device", "cpu"]
UNCOMPILED = [*QUICK, "--no-compile"]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KSHOT_DATA", raising=False)


def test_json_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*UNCOMPILED, "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["device"] == "cpu"
    for name in ("kshot", "eager", "eager_fused", "jax"):
        times = said[f"{name}_ms"]
        assert set(times) == {"p50", "p95", "p99"}
        assert 0 < times["p50"] <= times["p95"] <= times["p99"]
    for name in ("eager", "eager_fused", "jax"):
        assert said[f"ratio_vs_{name}"] > 0
    assert said["ratio_method"] == "median of the rounds' ratios"
    assert said["flop"] == 78_604_800
    assert said["ratio_to_floor"] == pytest.approx(said["kshot_ms"]["p50"] / said["floor_ms"])
    best = max(said["product_gflop_per_second"].values())
    assert said["floor_ms"] == pytest.approx(said["flop"] / best / 1e6)
    assert said["stacked"] is None
    assert said["rounds"] == 2
    assert said["options"] == {
        "bundle": "omniglot/2",
        "way": 5,
        "shot": 1,
        "step_count": 1,
        "batch_size": 5,
        "preconditioner": "carried",
        "compiled": False,
        "threads": 1,
    }
    assert said["environment"]["torch"] == torch.__version__
    assert "accuracy" not in said


def test_the_table_goes_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*UNCOMPILED, "--no-jax"]) == 0

    said = capsys.readouterr()
    assert "5-way 1-shot, 1 steps, batch 5" in said.out
    assert "plain PyTorch loop" in said.out
    assert "JAX" not in said.out
    assert "2 rounds" in said.err


def test_stacked_tasks_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*UNCOMPILED, "--no-jax", "--tasks", "2", "--json"]) == 0

    stacked = json.loads(capsys.readouterr().out)["stacked"]
    assert stacked["tasks"] == 2
    assert stacked["adaptations_per_second"] == pytest.approx(2e3 / stacked["ms"]["p50"])
    assert main([*UNCOMPILED, "--no-jax", "--tasks", "2"]) == 0
    assert "2 tasks, each" in capsys.readouterr().out


def test_the_compiled_loop_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--compile", "--no-jax", "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["options"]["compiled"] is True
    assert said["kshot_ms"]["p50"] > 0
    assert said["jax_ms"] is None
    assert said["ratio_vs_jax"] is None


def test_the_plot_shows_accuracy_on_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_curve, "STEP_COUNTS", (1, 2))
    monkeypatch.setattr(accuracy_curve, "TASK_COUNT", 2)
    plot = tmp_path / "plot.png"

    assert main([*UNCOMPILED, "--no-jax", "--json", "--plot", str(plot)]) == 0

    said = capsys.readouterr()
    points = json.loads(said.out)["accuracy"]
    assert [point["step_count"] for point in points] == [1, 2]
    assert all(0 <= point["accuracy"] <= 1 and point["adapt_ms"] > 0 for point in points)
    assert "scikit-learn's digits" in said.err
    with Image.open(plot) as image:
        image.load()
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "0 is not in the range x>=1"),
        (["--threads", "0"], "0 is not in the range x>=1"),
        (["--tasks", "1"], "1 is not in the range x>=2"),
        (
            ["--step-count", "201"],
            "--step-count: expected at most 200, the limit of bundle omniglot, got 201",
        ),
        (["--way", "51"], "--way: expected at most 50, the limit of bundle omniglot, got 51"),
        (["--way", "1"], "1 is not in the range x>=2"),
        (["--shot", "201"], "--way times --shot: expected at most 1000"),
        (
            ["--batch-size", "7"],
            "--batch-size: expected one of 5, 10, 20, 25 (bundle omniglot), got 7",
        ),
        (["--bundle", "omniglott"], "there is no folder omniglott, and no built-in bundle"),
        (["--plot", "nowhere/plot.png"], "--plot: nowhere/plot.png: there is no folder nowhere; "),
        (["--plot", "plot.pdf"], "--plot: expected a file that ends in .png, got plot.pdf"),
        (["--plot", "plot.png", "--data", "nowhere"], "data folder nowhere does not exist"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main([*QUICK, *arguments]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1


def test_the_plots_data_are_checked_before_the_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits have ten classes; the bundle allows fifty ways."""
    assert main([*QUICK, "--way", "20", "--plot", str(tmp_path / "plot.png")]) == 1

    error = capsys.readouterr().err
    assert "scikit-learn's digits" in error
    assert "20" in error
    assert "rounds" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_bundle_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "omniglot" / "1"
    shutil.copytree(builtin_bundle("omniglot@1"), folder)
    (folder / "weights.safetensors").write_bytes(b"")

    assert main([*QUICK, "--bundle", str(folder)]) == 1

    error = capsys.readouterr().err
    assert "weights.safetensors: expected 906544 bytes" in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "adapt", "--device", "cuda"]) == 2

    assert capsys.readouterr().err == (
        "kshot: --device: torch sees no GPU; expected cpu or auto, got cuda\n"
    )


def test_without_jax_it_is_left_out_or_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "jax" else find(name))

    assert main([*QUICK, "--jax"]) == 2
    assert "--jax needs 'jax', which is not installed: pip install jax" in capsys.readouterr().err
    assert main([*UNCOMPILED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jax_ms"] is None


def test_figures_follow_from_the_samples() -> None:
    """The floor goes by the best of all products; each ratio is the middle one of the rounds."""
    measurement = Measurement(
        samples={
            "kshot": [10.0, 20.0, 10.0],
            "eager": [40.0, 40.0, 30.0],
            "eager_fused": [10.0] * 3,
        },
        products={"mm": [4.0, 2.0], "onednn": [1.0, 8.0]},
        flop=5 * 2 * 1024**3,
    )

    document = measurement.document()

    assert document["floor_ms"] == pytest.approx(5.0)
    assert document["ratio_to_floor"] == pytest.approx(2.0)
    assert document["ratio_vs_eager"] == 3.0
    assert document["ratio_vs_eager_fused"] == 1.0
    assert document["jax_ms"] is None
    assert document["ratio_vs_jax"] is None


def test_stacked_figures_follow_from_the_samples() -> None:
    measurement = Measurement({"kshot": [10.0] * 3}, {"mm": [1.0]}, 1, 4, [20.0, 10.0, 40.0])

    assert measurement.document()["stacked"] == {
        "tasks": 4,
        "ms": {"p50": 20.0, "p95": pytest.approx(38.0), "p99": pytest.approx(39.6)},
        "ms_per_task": 5.0,
        "adaptations_per_second": pytest.approx(200.0),
        "ratio_vs_alone": pytest.approx(2.0),
    }
