"""`studies/short_recipes.py`, shortened to seconds, on generated images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kshot.trainer.datasets import mini_imagenet
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.datasets.splits import split_digest
from kshot.trainer.recipe.files import load_image_recipe
from studies.common.results import RESULTS, read_result
from studies.short_recipes import ShortRun, command, compared, short_runs, work

from .generated_images import MINI_IMAGENET, ImageForm, class_images, write_classes

GENERATED = ("data.dataset=folder", "data.split=parts", "data.folder=generated")
NO_CURVES = ("evaluation.interval=40000", "evaluation.checkpoint_interval=1000")
WAVES = "evaluation.task_count=200"
FAST = ("outer.meta_batch_size=4", "outer.meta_step_size=0.01")
SMALL = (*GENERATED, *NO_CURVES, "network.arguments.filters=16")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded images with the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            ShortRun(
                "omniglot-5way", 30, (*SMALL, "inner.learning_rate=0.003"), 60, 5, step_count=3
            ),
            id="reptile",
        ),
        pytest.param(ShortRun("omniglot-5way-fomaml", 40, (*SMALL, *FAST), 100, 5), id="fomaml"),
        pytest.param(
            ShortRun("sine", 500, (*NO_CURVES, "outer.meta_step_size=0.5", WAVES), 600, 5),
            id="sine",
        ),
    ],
)
def test_short_training_improves_over_its_start(run: ShortRun, tmp_path: Path) -> None:
    """Larger steps than the recipes' own improve within seconds.

    With six seeds each, by at least four times the interval in Reptile, 2.7 times in FOMAML.
    """
    counts = {"train": 24, "test": 10}
    parts = {part: [f"{part}{at}" for at in range(count)] for part, count in counts.items()}
    if run.recipe != "sine":
        write_classes(tmp_path / "generated", ImageForm(28, 1, 20), parts)
    asked = work(run, tmp_path)
    (row,), _ = asked.measure()

    assert row["improved"], row
    assert asked.command.startswith(f"kshot train {run.recipe} --set outer.meta_iterations=")


def test_recipe_without_its_data_is_left_out(tmp_path: Path) -> None:
    arguments = ["--only", "omniglot-best", "--data", str(tmp_path), "--out", str(tmp_path)]
    done = CliRunner().invoke(command, [*arguments, "--device", "cpu"])

    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("omniglot-best: left out; ")
    assert list(tmp_path.rglob("*.json")) == []


def test_kept_comparison_is_not_made_again(tmp_path: Path) -> None:
    """The tasks of a trial are other tasks."""
    path = tmp_path / "short-recipes" / "sine.json"
    path.parent.mkdir()
    path.write_bytes((RESULTS / "short-recipes" / "sine.json").read_bytes())

    done = CliRunner().invoke(command, ["--only", "sine", "--out", str(tmp_path)])
    assert "sine: measured before" in done.stderr
    assert read_result(path) == read_result(RESULTS / "short-recipes" / "sine.json")
    changed = replace(short_runs()["sine"], task_count=5)
    assert work(changed, tmp_path).settings != read_result(path).settings


def test_less_error_is_better_and_more_accuracy() -> None:
    values = ([0.5, 0.25, 0.5], [0.75, 0.5, 1.0])

    more = compared("accuracy", *values)
    assert (more["start"], more["end"]) == (pytest.approx(0.41667, abs=1e-5), 0.75)
    assert more["improvement"] == pytest.approx(1 / 3)
    less = compared("squared_error", *values)
    assert less["improvement"] == pytest.approx(-1 / 3)
    assert not less["improved"]


def test_images_of_a_class_differ_and_follow_from_the_seed() -> None:
    form = ImageForm(side=28, channels=1, image_count=3)
    images = class_images(form, 0)

    assert images.shape == (3, 28, 28, 1)
    assert images.dtype == np.uint8
    assert (images[0] != images[1]).any()
    assert (images == class_images(form, 0)).all()
    assert (images != class_images(form, 1)).any()


def test_classes_of_mini_imagenet_are_those_of_its_published_split() -> None:
    assert split_digest(MINI_IMAGENET) == mini_imagenet.SPLIT_DIGEST


def test_generated_mini_imagenet_is_read_by_its_own_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_imagenet, "IMAGE_COUNT", 2)
    recipe = load_image_recipe("mini-imagenet-5way")
    write_classes(tmp_path / "mini-imagenet", ImageForm(84, 3, 2), MINI_IMAGENET)

    dataset = read_dataset(recipe.data, tmp_path, "train", input_spec=recipe.input)
    assert (dataset.class_count, tuple(dataset.images.shape)) == (64, (128, 3, 84, 84))
