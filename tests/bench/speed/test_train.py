"""`kshot bench train`, run in this process by the program's own entry point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from kshot.__main__ import main
from kshot.bench.speed import train
from kshot.trainer.recipe.files import load_image_recipe

QUICK = [
    "bench",
    "train",
    "--meta-iterations",
    "1",
    "--rounds",
    "1",
    "--device",
    "cpu",
    "--no-compile",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a tiny network on few images."""
    settings = ("network.arguments.filters=4", "task.shot=2", "inner.step_count=2")
    monkeypatch.setattr(train, "load_image_recipe", lambda name: load_image_recipe(name, settings))
    monkeypatch.setattr(train, "_CLASS_COUNT", 12)


def test_json_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["device"] == "cpu"
    for name in ("kshot", "plain", "jax", "jax_serial"):
        assert said[f"{name}_per_second"] > 0
    for name in ("plain", "jax", "jax_serial"):
        ratio = said["kshot_per_second"] / said[f"{name}_per_second"]
        assert said[f"ratio_vs_{name}"] == pytest.approx(ratio)
    assert said["rounds"] == 1
    assert said["options"] == {
        "recipe": "omniglot-5way",
        "images": 240,
        "meta_iterations": 1,
        "compiled": False,
        "threads": 1,
    }
    assert said["environment"]["torch"] == torch.__version__


def test_the_table_and_the_plot_show_what_took_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "rates.png"

    assert main([*QUICK, "--no-jax", "--plot", str(plot)]) == 0

    said = capsys.readouterr()
    assert "plain PyTorch loop" in said.out
    assert "JAX" not in said.out
    with Image.open(plot) as image:
        image.load()
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "0 is not in the range x>=1"),
        (["--meta-iterations", "0"], "0 is not in the range x>=1"),
        (["--plot", "nowhere/plot.png"], "--plot: nowhere/plot.png: there is no folder nowhere; "),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUICK, *arguments]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "train", "--device", "cuda"]) == 2

    assert "torch sees no GPU" in capsys.readouterr().err


def test_rates_follow_from_the_samples() -> None:
    samples = {"kshot": [100.0, 200.0, 100.0], "plain": [300.0, 400.0, 300.0]}

    document = train.document(samples, meta_iterations=2)

    assert document["kshot_per_second"] == pytest.approx(20.0)
    assert document["plain_per_second"] == pytest.approx(20 / 3)
    assert document["ratio_vs_plain"] == pytest.approx(3.0)
    assert document["jax_per_second"] is None
    assert document["ratio_vs_jax"] is None
