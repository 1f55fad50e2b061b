import json
from pathlib import Path

import onnx
import onnx.parser
import pytest
from click.testing import CliRunner, Result
from torch import device, nn

from kshot.bundle import BatchNormMode, Bundle, BundleError, Head, Resize, Square, load_bundle
from kshot.learner import Initialization
from kshot.trainer.bundling import timm_backbone
from kshot.trainer.commands import bundle as bundle_module
from kshot.trainer.commands.bundle import command

POOL = "AveragePool<kernel_shape = [8, 8], strides = [8, 8]>"
FEATURES = f"maps = {POOL}(x) y = Flatten<axis = 1>(maps)"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder of 16 pixels: the means of four quarters in three colours."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
        net (float[n,3,16,16] x) => (float[n,12] y) {{ {FEATURES} }}"""
    path = tmp_path / "quarters.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(command, [*map(str, words)])


def test_a_bundle_of_an_onnx_file_serves_at_once(encoder: Path, tmp_path: Path) -> None:
    """The engine can load it; its inputs are what the options say."""
    result = run(
        *("quarters", "--onnx", encoder, "--out", tmp_path / "out", "--version", 2),
        *("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--square", "pad", "--method", "box"),
    )

    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "quarters" / "2"
    assert result.output.strip() == str(folder)
    bundle: Bundle = load_bundle(folder)
    manifest = bundle.manifest
    assert manifest.input.shape == (3, 16, 16)
    assert manifest.input.preprocessing[1:3] == (Square("pad"), Resize(16, 16, "box"))
    assert manifest.network_input_shape == (12, 1, 1)
    assert manifest.batch_norm.allowed == (BatchNormMode.STORED,)
    assert manifest.head.default is Head.RIDGE
    initialization = Initialization.from_bundle(bundle, device("cpu"))
    assert initialization.network.feature_count == 12
    card = (folder / "README.md").read_text()
    assert (
        "`kshot bundle build quarters --onnx quarters.onnx --version 2 --mean 0.5,0.5,0.5 "
        "--std 0.2,0.2,0.2 --square pad --method box`"
    ) in card
    assert "transductive" not in card

    again = run("quarters", "--onnx", encoder, "--out", tmp_path / "out", "--version", 2)
    assert again.exit_code == 2
    assert "exists already; give another --version" in again.output


def test_a_backbone_of_timm_brings_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    images = timm_backbone.ImageStatistics(8, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bilinear")
    backbone = timm_backbone.Backbone(module, images)
    monkeypatch.setattr(bundle_module, "load_backbone", lambda *_arguments: backbone)

    result = run("net", "--timm", "net8", "--out", tmp_path)

    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "net" / "1" / "manifest.json").read_text())
    steps = document["input"]["preprocessing"]
    assert [step["step"] for step in steps] == ["rgb", "square", "resize", "normalize"]
    assert steps[2] == {"step": "resize", "height": 8, "width": 8, "method": "bilinear"}
    assert steps[3]["mean"] == [127.5, 102.0, 76.5]
    assert document["encoder"] == {"output_shape": [12, 1, 1]}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "expected one of --onnx and --timm"),
        (("--onnx", "x.onnx", "--timm", "x"), "expected one of --onnx and --timm"),
        (("--onnx", "x.onnx", "--weights", "w"), "--weights: expected with --timm"),
        (("--onnx", "missing.onnx"), "missing.onnx: cannot be read: No such file"),
        (("--onnx", "x.onnx", "--mean", "1,2"), "expected three numbers"),
        (
            ("--onnx", "x.onnx", "--std", "1,0,1"),
            "expected numbers from 0.001 to 1000, got '1,0,1'",
        ),
        (("--onnx", "x.onnx", "--std", "1e-300,1,1"), "expected numbers from 0.001 to 1000"),
    ],
)
def test_what_cannot_be_built_leaves_nothing(
    words: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    result = run("net", *words, "--out", tmp_path / "out")

    assert result.exit_code != 0
    assert problem in result.output
    assert not (tmp_path / "out").exists()


def test_a_bad_name_is_told_before_the_export(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    result = run("My_Net", "--onnx", encoder.with_name("missing.onnx"), "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert "NAME: expected a match of [a-z0-9]" in result.output
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["omniglot", "photos"])
def test_a_name_of_kshots_own_is_refused_in_the_cache(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """There it would hide the bundle of that name, or be hidden by it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    result = run(name, "--onnx", encoder)

    assert result.exit_code == 2
    assert f"{name}: expected a name that no bundle of kshot has" in result.output
    assert "--out DIR" in result.output


def test_a_failed_write_leaves_nothing(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise BundleError("the disk is full")

    monkeypatch.setattr(bundle_module, "write_encoder_bundle", fail)

    result = run("net", "--onnx", encoder, "--out", tmp_path / "a" / "b")

    assert result.exit_code != 0
    assert not (tmp_path / "a").exists()


def test_an_encoder_of_another_size_is_refused(encoder: Path, tmp_path: Path) -> None:
    result = run("net", "--onnx", encoder, "--size", 24, "--out", tmp_path / "out")

    assert result.exit_code == 1
    assert "input x: expected float of shape ['n', 3, 24, 24]" in result.output
    assert not (tmp_path / "out").exists()
