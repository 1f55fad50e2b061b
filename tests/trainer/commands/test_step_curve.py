"""Accuracy over steps, which `kshot train` measures at the end."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.bundle import Head, HeadPolicy, Manifest
from kshot.trainer.commands import data_parts, step_curve
from kshot.trainer.commands.step_curve import step_axes
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import DataError
from kshot.trainer.output.sweep_report import write_sweep
from kshot.trainer.recipe.recipe import Data

Patterns = Callable[..., ImageDataset]


def test_the_numbers_of_steps_are_those_allowed(manifest: Manifest) -> None:
    few = replace(manifest, limits=replace(manifest.limits, max_step_count=10))
    ridge = replace(few, head=HeadPolicy(Head.RIDGE, (Head.RIDGE,)))

    axes = step_axes(few)
    assert axes is not None
    assert axes.step_counts == (0, 1, 2, 5, 10)
    assert (axes.heads, axes.batch_norm_modes) == (
        (few.head.default,),
        (few.batch_norm.default,),
    )
    assert step_axes(ridge) is None


@pytest.mark.parametrize("with_validation", [True, False])
def test_a_training_measures_its_steps(
    patterns: Patterns,
    small_bundle: None,  # noqa: ARG001 -- asked for its effect
    small_settings: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    with_validation: bool,
) -> None:
    def read_dataset(_data: Data, _folder: Path, part: str, **_: object) -> ImageDataset:
        if part == "val" and not with_validation:
            raise DataError("part of patterns: expected one of train, test, got 'val'")
        return patterns(seed=("train", "test", "val").index(part))

    monkeypatch.setattr(data_parts, "read_dataset", read_dataset)
    monkeypatch.setattr(step_curve, "write_sweep", write_sweep)
    out = tmp_path / "out"
    settings = [f"--set={setting}" for setting in small_settings]
    words = ["train", "omniglot-5way", "--out", str(out), "--data", str(tmp_path), *settings]
    words += ["--device", "cpu", "--no-compile", "--json"]

    assert main([*words, "--no-step-curve"]) == 0
    assert json.loads(capsys.readouterr().out)["plots"] == []
    assert main([*words, "--resume"]) == 0

    plot = out / "steps" / "sweep.png"
    assert json.loads(capsys.readouterr().out)["plots"] == [str(plot)]
    with Image.open(plot) as picture:
        assert picture.width > 1000
    measured = json.loads((out / "steps" / "sweep.json").read_text())
    assert measured["data"] == ("patterns 2" if with_validation else "patterns 1")
    assert measured["tasks"] == 1
    assert [row["step_count"] for row in measured["rows"]] == [0, 0, 1]
