"""The comparison that benchmarks/short_recipes.py makes, shortened to seconds."""

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from kshot.__main__ import main
from kshot.bench import short_runs
from kshot.bench.generated_images import MINI_IMAGENET, ImageForm, class_images
from kshot.bench.short_recipes import Compared, ShortData, ShortRun, run_short
from kshot.bench.short_runs import SHORT_RUNS, data_for, generate
from kshot.bundle import BatchNormMode
from kshot.learner import Network
from kshot.trainer.bundling import packaging
from kshot.trainer.datasets import mini_imagenet
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.datasets.splits import split_digest
from kshot.trainer.recipe.files import list_recipes, load_image_recipe, load_recipe

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "short-recipes.json"
SMALL = ("network.arguments.filters=16", "evaluation.checkpoint_interval=1000")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded images with the test, and let a bundle's templates be their modes' names."""

    def name_mode(_network: Network, mode: BatchNormMode) -> bytes:
        return mode.value.encode()

    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packaging, "build_template", name_mode)
    monkeypatch.setattr(short_runs, "GENERATED_FORM", {"train": 24, "test": 10})


def train(arguments: Sequence[str]) -> None:
    assert main(list(arguments)) == 0


def row_of(run: ShortRun, work: Path) -> Mapping[str, object]:
    data = ShortData(work, generated=True)
    if run.recipe != "sine":
        data = generate(load_image_recipe(run.recipe), work)
    return run_short(run, data, work / "run", train)


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(ShortRun("omniglot-5way", 60, SMALL, 100, step_count=3), id="reptile"),
        pytest.param(
            ShortRun("omniglot-5way-fomaml", 100, (*SMALL, "outer.meta_batch_size=4"), 100),
            id="fomaml",
        ),
        pytest.param(
            ShortRun("sine", 1000, ("outer.meta_step_size=0.5", "evaluation.task_count=200")),
            id="sine",
        ),
    ],
)
def test_a_short_training_improves_over_its_start_by_more_than_the_interval(
    run: ShortRun, tmp_path: Path
) -> None:
    row = row_of(run, tmp_path)

    assert row["improved"], row
    assert str(row["command"]).startswith(f"kshot train {run.recipe} --set outer.meta_iterations=")
    assert row["data"] == ("waves" if run.recipe == "sine" else "generated")


def test_every_shipped_recipe_has_a_short_run() -> None:
    assert set(SHORT_RUNS) == set(list_recipes())
    assert all(name == run.recipe for name, run in SHORT_RUNS.items())


def test_the_committed_result_has_every_recipe_by_a_command_of_today_and_improves() -> None:
    rows = json.loads(RESULT.read_text())["rows"]
    page = (ROOT / "docs" / "recipes.md").read_text()

    assert [row["recipe"] for row in rows] == list(SHORT_RUNS)
    for row in rows:
        words = shlex.split(row["command"])
        assert words[:3] == ["kshot", "train", row["recipe"]]
        load_recipe(row["recipe"], [after for word, after in pairwise(words) if word == "--set"])
        assert row["improvement"] > row["improvement_ci95"] > 0
        assert row["improved"]
        assert f"| `{row['recipe']}` | {row['meta_iterations']:,} | " in page


def test_a_scaled_run_has_at_least_one_meta_iteration() -> None:
    run = ShortRun("sine", 100)

    assert run.scaled(0.25).meta_iterations == 25
    assert run.scaled(0.0001).meta_iterations == 1


def test_less_error_is_better_and_more_accuracy() -> None:
    values = ([0.5, 0.25, 0.5], [0.75, 0.5, 1.0])

    more = Compared("accuracy", "three tasks", *values, 1.0).document()
    assert (more["start"], more["end"]) == (pytest.approx(0.41667, abs=1e-5), 0.75)
    assert more["improvement"] == pytest.approx(1 / 3)
    less = Compared("squared_error", "three tasks", *values, 1.0).document()
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


def test_the_classes_of_mini_imagenet_are_those_of_its_published_split() -> None:
    assert split_digest(MINI_IMAGENET) == mini_imagenet.SPLIT_DIGEST


def test_generated_mini_imagenet_is_read_by_its_own_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short_runs, "MINI_IMAGENET_COUNT", 2)
    monkeypatch.setattr(mini_imagenet, "IMAGE_COUNT", 2)
    recipe = load_image_recipe("mini-imagenet-5way")

    data = data_for(recipe, None, tmp_path, lambda _sentence: None)
    dataset = read_dataset(recipe.data, data.folder, "train", input_spec=recipe.input)
    assert (data.generated, data.settings) == (True, ())
    assert (dataset.class_count, tuple(dataset.images.shape)) == (64, (128, 3, 84, 84))


def test_pretraining_on_generated_images_has_their_number_of_classes(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = load_image_recipe("omniglot-pretraining")

    data = data_for(recipe, tmp_path, tmp_path, said.append)
    changed = load_image_recipe("omniglot-pretraining", data.settings)
    dataset = read_dataset(changed.data, data.folder, "train", input_spec=changed.input)
    assert dataset.class_count == changed.task.way == 96
    assert "images_background" in said[0]
    assert said[1] == "generating images of the form of omniglot"
