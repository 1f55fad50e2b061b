"""`kshot calibrate`, run in this process on small patterns in Omniglot's place."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kshot.__main__ import main
from kshot.bundle import COMPUTED_MODES, BatchNormMode, Bundle, EvaluationRow, Manifest, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling import step_counts
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets import registry as datasets
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.reader import PartRequest
from kshot.trainer.evaluate.accuracy_table import measure_plan, plan_table
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.recipe.recipe import Recipe

Patterns = Callable[..., ImageDataset]
Recipes = Callable[..., Recipe]
Calibrate = Callable[..., int]
SEEDS = {"test": 0, "val": 1, "train": 2}


@pytest.fixture(autouse=True)
def patterns_for_omniglot(patterns: Patterns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is eight patterns of its own, in the input's size."""

    def read(request: PartRequest) -> ImageDataset:
        assert request.folder.is_dir()
        assert request.input_spec.shape == (1, 28, 28)
        return patterns(seed=SEEDS[request.part])

    monkeypatch.setattr(datasets, "DATASETS", {**datasets.DATASETS, "omniglot": read})


@pytest.fixture(scope="module")
def tables() -> dict[tuple[str, ...], tuple[EvaluationRow, ...]]:
    """What was measured already, by the settings of the recipe."""
    return {}


@pytest.fixture
def pack(
    small_recipe: Recipes,
    make_initialization: Callable[[Manifest], Initialization],
    patterns: Patterns,
    small_bundle: None,  # noqa: ARG001 -- templates are names
    tables: dict[tuple[str, ...], tuple[EvaluationRow, ...]],
    tmp_path: Path,
) -> Callable[..., Path]:
    """Return a function that packs a bundle, its table measured or not."""

    def make(name: str, *settings: str, table: bool = True, **changes: object) -> Path:
        recipe, dataset = small_recipe(*settings), patterns()
        manifest = draft_manifest(recipe, dataset)
        initialization = make_initialization(manifest)
        if table and settings not in tables:
            tables[settings] = measure_plan(
                plan_table(recipe.evaluation.table, manifest),
                Evaluator(initialization, manifest, dataset),
            )
        rows = tables[settings] if table else ()
        manifest = replace(manifest, evaluation=rows, **changes)  # type: ignore[arg-type] -- any
        return pack_bundle(tmp_path / name, manifest, initialization, recipe, dataset)

    return make


@pytest.fixture
def bundle(pack: Callable[..., Path]) -> Bundle:
    return load_bundle(pack("bundles"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


@pytest.fixture
def calibrate(bundle: Bundle, out: Path, tmp_path: Path) -> Calibrate:
    """Calibrate to `out` on few tasks; options that are given again count."""
    common = ["--out", str(out), "--data", str(tmp_path), "--device", "cpu", "--no-compile"]
    common += ["--tasks", "12", "--queries", "2", "--shots", "1,3"]
    return lambda *more, name=None: main(["calibrate", name or str(bundle.path), *common, *more])


def test_a_copy_is_calibrated(
    calibrate: Calibrate,
    bundle: Bundle,
    out: Path,
    patterns: Patterns,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert calibrate("--json") == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    copy = load_bundle(out / "omniglot" / "1")

    manifest = copy.manifest
    assert manifest.calibration is not None
    assert "table" not in said.err  # a temperature changes no answer
    assert (found["bundle"], found["bundle_digest"]) == (str(copy.path), copy.digest)
    assert (found["split"], found["tasks"], found["queries"]) == ("val", 12, 2)
    assert (found["way"], found["step_count"], found["seed"]) == (3, 10, 0)
    assert found["data_digest"] == manifest.calibration.data_digest == patterns(seed=1).digest
    evaluator = Evaluator.of_bundle(copy, patterns(seed=1), torch.device("cpu"))
    evaluated = {
        shot: evaluator.evaluate(
            EvaluationSettings(3, shot, 2, 12, BatchNormMode.SUPPORT), COMPUTED_MODES
        )
        for shot in (1, 3)
    }
    for entry, rule in zip(found["temperatures"], manifest.calibration.rules, strict=True):
        assert entry["batch_norm_mode"] == rule.batch_norm_mode
        assert (entry["shot"], entry["temperature"]) == (rule.shot, rule.temperature)
        assert entry["nll"] < entry["uncalibrated_nll"]
        measured = evaluated[int(rule.shot)][rule.batch_norm_mode]
        assert (entry["ece"], entry["nll"]) == (measured.ece, measured.nll)
    original = replace(bundle.manifest, files={}, calibration=manifest.calibration)
    assert replace(manifest, files={}) == original
    for name in ("weights.safetensors", "predict_support.onnx"):
        assert (copy.path / name).read_bytes() == (bundle.path / name).read_bytes()
    for rule in manifest.calibration.rules:
        row = f"| {rule.batch_norm_mode} | {rule.shot:g} | {rule.temperature:.4g} |"
        assert row in (copy.path / "README.md").read_text()


def test_other_defaults_are_the_copys_and_are_measured(
    calibrate: Calibrate, bundle: Bundle, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--step-count", "4", "--batch-norm-mode", "transductive", "--head", "zero"]
    options += ["--preconditioner", "fresh", "--seed", "7", "--split", "train", "--shots", "2"]
    assert calibrate(*options) == 0
    said = capsys.readouterr()
    manifest = load_bundle(out / "omniglot" / "1").manifest

    assert manifest.inner_loop.step_count == 4
    assert manifest.inner_loop.preconditioner == "fresh"
    assert (manifest.batch_norm.default, manifest.head.default) == ("transductive", "zero")
    fitted = manifest.calibration
    assert fitted is not None
    assert (fitted.part, fitted.seed, fitted.step_count) == ("train", 7, 4)
    assert {rule.shot for rule in fitted.rules} == {2}
    measured = {(row.shot, row.step_count, row.preconditioner) for row in manifest.evaluation}
    before = {(row.shot, row.step_count) for row in bundle.manifest.evaluation}
    after = {(shot, steps) for shot, steps, _ in measured}
    assert after == before | {(1, 4), (5, 4)}
    assert {preconditioner for *_, preconditioner in measured} == {"fresh"}
    *lines, folder = said.out.splitlines()
    assert folder == str(out / "omniglot" / "1")
    assert len(lines) == 3
    assert lines[0].startswith("transductive, 2-shot: temperature ")
    assert "fitting temperatures: 12/12 tasks" in said.err
    assert "measuring the copy's table: 4/4 tasks" in said.err
    words = "--split train --shots 2 --tasks 12 --queries 2 --seed 7 --step-count 4 "
    assert words in (out / "omniglot" / "1" / "README.md").read_text()


def test_equal_commands_write_equal_copies(
    calibrate: Calibrate, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate() == 0
    assert calibrate("--out", str(tmp_path / "again")) == 0
    folders = [root / "omniglot" / "1" for root in (out, tmp_path / "again")]

    assert len({load_bundle(folder).digest for folder in folders}) == 1
    assert calibrate() == 2
    message = f"--out: {folders[0]} exists already"
    assert message in capsys.readouterr().err


def test_a_bundle_without_a_table_gets_none(
    calibrate: Calibrate, pack: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test tasks are asked for."""
    monkeypatch.delitem(SEEDS, "test")
    assert calibrate(name=str(pack("bare", table=False))) == 0

    assert load_bundle(out / "omniglot" / "1").manifest.evaluation == ()


def test_a_calibrated_bundle_is_refused(
    calibrate: Calibrate, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate() == 0
    capsys.readouterr()
    name = str(out / "omniglot" / "1")

    assert calibrate("--out", str(tmp_path / "twice"), name=name) == 2

    message = f"{name} is calibrated already; give the copy another version, as --set version=2"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


def test_a_later_version_is_calibrated_with_its_own_steps(
    calibrate: Calibrate,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_counts, "STEP_COUNTS", (1, 2, 4))
    monkeypatch.setattr(step_counts, "MOST_LOST", 1.0)
    assert calibrate() == 0
    capsys.readouterr()
    name, later = str(out / "omniglot" / "1"), tmp_path / "later"
    steps = '{step="grayscale"}, {step="polarity", ground="light"}, {step="resize", height=28, '
    steps += 'width=28, method="nearest"}, {step="rescale", factor=0.00392156862745098}'
    options = ["--fit-steps", "--set", "version=2", "--set", f"input.preprocessing=[{steps}]"]

    assert calibrate("--out", str(later), "--json", *options, name=name) == 0

    found, manifest = json.loads(capsys.readouterr().out), load_bundle(later / "omniglot").manifest
    rules = manifest.inner_loop.step_count_by_shot
    assert rules is not None
    assert [rule.max_shot for rule in rules] == [1, 3]
    assert all(rule.step_count == 1 for rule in rules)
    assert [entry["step_count"] for entry in found["step_counts"]] == [
        rule.step_count for rule in rules
    ]
    assert (manifest.version, manifest.inner_loop.step_count) == (2, 10)
    assert "polarity" in [step.step for step in manifest.input.preprocessing]
    served = {(row.shot, row.step_count) for row in manifest.evaluation}
    assert {(1, rules[0].step_count), (5, 10)} <= served
    card = (later / "omniglot" / "2" / "README.md").read_text()
    assert card.startswith("# omniglot, version 2\n")
    assert f"| 1 | {rules[0].step_count} |\n" in card
    assert "--fit-steps --batch-norm-mode support" in card
    assert '--set version=2 --set \'input.preprocessing=[{ step = "grayscale" }, {' in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shots", "1,x"], "'--shots': expected whole numbers separated by commas, got '1,x'"),
        (["--shots", ""], "'--shots': expected whole numbers separated by commas, got ''"),
        (["--shots", "0,5"], "'--shots': 0 is not in the range 1<=x<=1000"),
        (["--shots", "1,1001"], "'--shots': 1001 is not in the range 1<=x<=1000"),
        (["--shots", "9" * 5000], "expected whole numbers separated by commas, got"),
        (["--shots", "-1"], "'--shots': expected whole numbers separated by commas, got '-1'"),
        (["--tasks", "0"], "0 is not in the range 1<=x<=1000000"),
        (["--queries", "0"], "0 is not in the range x>=1"),
        (["--seed", "-1"], "-1 is not in the range x>=0"),
        (["--step-count", "-1"], "-1 is not in the range 0<=x<=100000"),
        (["--step-count", "0"], "inner_loop.step_count: expected at least 1, unless head.default"),
        (["--set", "version"], "the copy's setting: expected key=value, as in"),
        (["--set", "depth=2"], "the copy's manifest.json: depth: unknown key"),
        (["--step-count", "201"], "--step-count: expected at most 200, the limit of"),
        (["--split", "test"], "'test' is not one of 'val', 'train'"),
        (["--batch-norm-mode", "batch"], "'batch' is not one of"),
        (["--head", "none"], "'none' is not one of"),
        (["--data", "nowhere"], "data folder nowhere does not exist"),
        (["--out", "/proc"], "--out: cannot write to /proc"),
        (["--out", __file__], "is a file"),
    ],
)
def test_nonsense_is_refused_in_one_line(
    calibrate: Calibrate,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert calibrate(*options) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not out.exists()


def test_an_unknown_bundle_is_refused(
    calibrate: Calibrate, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(name="nothing") == 2
    assert "there is no folder nothing, and no built-in bundle" in capsys.readouterr().err


def test_what_the_bundle_does_not_allow_is_refused(
    calibrate: Calibrate, pack: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ('serving.head={default="trained", allowed=["trained"]}',)
    name = str(pack("narrow", *settings, table=False))

    assert calibrate("--head", "zero", name=name) == 2

    assert "--head: zero is not allowed by" in capsys.readouterr().err


def test_a_folder_that_takes_nothing_is_refused(
    calibrate: Calibrate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "omniglot").write_text("a file in the place of the folder")

    assert calibrate("--out", str(tmp_path / "taken")) == 2

    assert "--out: cannot write to " in capsys.readouterr().err
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert calibrate("--out", str(tmp_path / "locked")) == 2
        assert "locked/omniglot: Permission denied" in capsys.readouterr().err


def test_too_few_images_are_refused_first(
    calibrate: Calibrate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "of_bundle", None)

    assert calibrate("--queries", "9") == 1
    assert "1 support and 9 query images per class: expected" in capsys.readouterr().err
    assert calibrate("--shots", "7", "--queries", "1") == 1
    assert "7 support and 1 query images per class: expected" in capsys.readouterr().err


def test_classes_that_are_split_otherwise_are_refused(
    calibrate: Calibrate,
    patterns: Patterns,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object, **__: object) -> ImageDataset:
        return patterns(class_count=9)

    monkeypatch.setattr(datasets, "DATASETS", {**datasets.DATASETS, "omniglot": read})

    assert calibrate() == 1

    message = capsys.readouterr().err
    assert "was trained on another split of" in message
    assert "--dataset" not in message


def test_where_no_temperature_fits_nothing_is_written(
    calibrate: Calibrate, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Class means tell these patterns apart without a mistake."""
    assert calibrate("--head", "prototype", "--shots", "2", "--step-count", "1") == 1

    message = capsys.readouterr().err
    assert "2-shot tasks in mode transductive: no temperature down to 0.001 is low" in message
    assert not (out / "omniglot" / "1").exists()


def test_a_missing_part_names_the_others(
    pack: Callable[..., Path],
    calibrate: Calibrate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part in ("train", "test"):
        for number in range(3):
            folder = tmp_path / "letters" / part / f"{part}{number}"
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    settings = ("data.dataset=folder", "data.folder=letters", "data.split=parts")
    name = str(pack("letters-bundle", *settings, "data.rotations=false", table=False))

    assert calibrate(name=name) == 1

    captured = capsys.readouterr()
    assert (
        "part of folder letters parts: expected one of train, test (those with classes), got 'val'"
        in (captured.err)
    )
    assert captured.err.count("\n") == 1


def test_the_way_is_asked_for_or_the_tables(
    calibrate: Calibrate,
    pack: Callable[..., Path],
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The trained way is 3; where there is a table, its way comes first."""
    of_five = pack("five", "evaluation.table.way=5")
    bare = pack("bare", table=False)
    ways = []
    for number, (name, more) in enumerate(
        ((None, ("--way", "4")), (str(of_five), ()), (str(bare), ()))
    ):
        assert calibrate("--json", "--out", str(out / str(number)), *more, name=name) == 0
        ways.append(json.loads(capsys.readouterr().out)["way"])

    assert ways == [4, 5, 3]
    assert calibrate("--way", "51") == 2
    assert "--way: expected at most 50, the limit of" in capsys.readouterr().err
