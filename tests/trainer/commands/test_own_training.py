"""`kshot train --folder` chooses a training by the pictures, and measures the result."""

import shutil
import signal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.bundle import RidgeRule, load_bundle
from kshot.trainer.bundling import encoder_bundle, ridge_bundle
from kshot.trainer.datasets.splits import held_out_split
from kshot.trainer.evaluate import contest
from kshot.trainer.rivals.rivals import RIVALS

CLASSES, PICTURES = 6, 7
SPLIT = held_out_split([f"class{label}" for label in range(CLASSES)], 0)
HELD_OUT = SPLIT["test"]
SETTINGS = ("outer.meta_iterations=2", "evaluation.task_count=2", "evaluation.table.task_count=2")
QUICK = ("--device", "cpu", "--no-compile", *(f"--set={setting}" for setting in SETTINGS))
ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[n,3,16,16] x) => (float[n,12] y) {
        maps = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(x)
        y = Flatten<axis = 1>(maps)
    }"""


@pytest.fixture(autouse=True)
def few_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KSHOT_DATA", str(tmp_path / "for-recipes"))
    for module in (contest, ridge_bundle):
        monkeypatch.setattr(module, "TASKS", 4)
    monkeypatch.setattr(
        contest, "RIVALS", MappingProxyType({name: RIVALS[name] for name in ("pixels-1nn",)})
    )


def folder_of(tmp_path: Path, *, drawn: bool) -> Path:
    """Make a folder of six classes: bars of ink, or textures of a colour."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        place = tmp_path / "Own pictures" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(PICTURES):
            if drawn:
                pixels = np.full((32, 32, 3), 255, np.uint8)
                pixels[8 : 12 + 2 * label, 8 + number % 3 : 20] = 0
            else:
                color = np.array([40 * label, 200 - 30 * label, 120])
                noise = random.integers(-40, 40, (24, 32, 3))
                pixels = (color + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "Own pictures"


@pytest.mark.usefixtures("small_bundle")
def test_drawings_train_the_network_of_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "--folder",
        str(folder_of(tmp_path, drawn=True)),
        "--out",
        str(tmp_path / "o"),
    ]

    assert main([*words, *QUICK]) == 0

    said = capsys.readouterr()
    assert "6 classes, 42 pictures: drawings" in said.err
    assert f"held out, to measure on: {', '.join(HELD_OUT)}\n" in said.err
    bundle = load_bundle(tmp_path / "o" / "own-pictures" / "1")
    manifest = bundle.manifest
    assert (manifest.provenance.folder, manifest.provenance.split) == ("Own pictures", "held-out:0")
    assert manifest.training.way == 12
    assert [row.shot for row in manifest.evaluation][::6] == [1, 5]
    assert "on 3-way tasks of 3 classes that were held out" in said.out
    for title in ("own-pictures ", "drawings ", "nearest neighbour on 28x28 gray pixels"):
        assert any(line.startswith(title) for line in said.out.splitlines())
    assert said.out.splitlines()[-1].startswith("  kshot serve --bundle ")

    assert main([*words, *QUICK, "--resume"]) == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert "is finished already" in again.err


def test_other_pictures_choose_the_rules_of_a_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_bundle, "build_template", lambda *_: b"not served here")
    onnx.save(onnx.parser.parse_model(ENCODER), tmp_path / "net.onnx")
    assert main(["bundle", "build", "net", "--onnx", str(tmp_path / "net.onnx")]) == 0
    words = ["train", "--folder", str(folder_of(tmp_path, drawn=False)), "--device", "cpu"]
    words += ["--out", str(tmp_path / "o")]
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()

    assert main(words) == 1
    assert "drawings: photos is not built; pip install" in capsys.readouterr().err
    assert main([*words, "--start", "drawings", "--set", "outer.seed=x"]) == 2
    assert main([*words, "--start", "omniglot"]) == 2
    assert main([*words, "--start", "net", "--set", "outer.seed=1"]) == 2
    problems = capsys.readouterr().err
    assert "expected a bundle with head ridge or with the step ink, got omniglot" in problems
    assert "--set: net has no recipe" in problems
    with monkeypatch.context() as launched:
        launched.setenv("WORLD_SIZE", "2")
        assert main([*words, "--start", "net"]) == 2
    assert "expected one process to choose the rules of net, got 2" in capsys.readouterr().err
    with monkeypatch.context() as stopped:
        stopped.setattr(ridge_bundle, "choose_rule", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert main([*words, "--start", "net"]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; to continue: kshot train --folder" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    (tmp_path / "o" / "own-pictures").mkdir(parents=True)  # as SIGKILL leaves
    assert main([*words, "--start", "net"]) == 0

    said = capsys.readouterr()
    assert "rules for 1 example per class; for more, the rules of net stay\n" in said.err
    folder = tmp_path / "o" / "own-pictures" / "1"
    bundle, start = load_bundle(folder), load_bundle(tmp_path / "cache/kshot/bundles/net")
    assert bundle.encoder_digest == start.encoder_digest
    ridge = bundle.manifest.ridge
    assert ridge is not None
    assert [rule.max_shot for rule in ridge.rules] == [1, 5, 20]
    assert isinstance(ridge.rules[0], RidgeRule)
    assert bundle.manifest.evaluation
    card = (folder / "README.md").read_text()
    assert "    kshot train --folder 'Own pictures' --start net --out OUT\n" in card
    assert "chosen on 4 tasks each for 1 example per class" in card
    assert "\nnet " in said.out

    assert main([*words, "--start", "net"]) == 2
    assert main([*words, "--start", "net", "--resume"]) == 0
    assert capsys.readouterr().out == said.out
    onnx.save(onnx.parser.parse_model(ENCODER.replace("Average", "Max")), tmp_path / "net.onnx")
    shutil.rmtree(start.path.parent)
    assert main(["bundle", "build", "net", "--onnx", str(tmp_path / "net.onnx")]) == 0
    assert main([*words, "--start", "net", "--resume"]) == 1
    (tmp_path / "o" / "own-pictures").rename(tmp_path / "o" / "foreign")
    assert main([*words, "--start", "net", "--resume"]) == 1
    problems = capsys.readouterr().err
    assert "own-pictures/1 is the bundle of another training; name another --out" in problems
    assert "or an empty directory, got other files in" in problems

    few = SPLIT["train"][0]
    again, twice = f"{few}/0.png", f"{HELD_OUT[0]}/0.png"
    (tmp_path / "Own pictures" / twice).write_bytes(
        (tmp_path / "Own pictures" / again).read_bytes()
    )
    for number in range(3, PICTURES):
        (tmp_path / "Own pictures" / few / f"{number}.png").unlink()
    assert main([*words[:-1], str(tmp_path / "few"), "--start", "net"]) == 1
    problems = capsys.readouterr().err
    assert f"{few}: expected at least 4 pictures, to choose" in problems
    assert "held-out classes share 1 file with training classes" in problems
    assert f"which raises the accuracy: {again} and {twice}; remove one of each\n" in problems
    assert not (tmp_path / "few").exists()


def test_a_recipe_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "o")]

    assert main(["train", *out]) == 2
    assert main(["train", "drawings", "--folder", str(tmp_path), *out]) == 2
    assert main(["train", "--folder", str(tmp_path), "--data", str(tmp_path), *out]) == 2

    problems = capsys.readouterr().err
    assert problems.count("expected one of RECIPE and --folder") == 2
    assert "--data cannot be combined with --folder" in problems


def test_results_are_not_written_into_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "birds").mkdir()

    for out in ("birds", "birds/runs", "."):
        words = ["--folder", str(tmp_path / "birds"), "--out", str(tmp_path / out), "--resume"]
        assert main(["train", *words]) == 2
    assert capsys.readouterr().err.count("--out: expected a directory outside --folder") == 3
    assert not any((tmp_path / "birds").iterdir())
