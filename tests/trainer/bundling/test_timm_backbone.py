"""Of a stand-in: timm itself needs a torchvision of torch's own build, which CI has not."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from kshot.trainer.bundling.timm_backbone import load_backbone
from kshot.trainer.errors import EncoderError


class Backbone(nn.Module):
    """A network of a class that timm would make."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, class_count) if class_count else nn.Identity()
        self.pretrained_cfg = {"classifier": "head"}


def create_model(name: str, *, pretrained: bool, num_classes: int, img_size: int = 0) -> nn.Module:
    if pretrained:
        raise RuntimeError("no hub here\nand more")
    if img_size:
        raise TypeError("img_size")
    assert name == "resnet18"
    return Backbone(num_classes)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made: Any = ModuleType("timm")
    made.__version__ = "1.0"
    made.is_model = lambda name: name == "resnet18"
    made.list_models = lambda: ["resnet18", "resnet50", "vit"]
    made.create_model = create_model
    config: Mapping[str, object] = {
        "input_size": (3, 288, 288),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.1),
        "interpolation": "bilinear",
    }
    made.data = SimpleNamespace(resolve_model_data_config=lambda _module: config)
    monkeypatch.setitem(sys.modules, "timm", made)
    module: ModuleType = made
    return module


def weights(**changes: Tensor | None) -> dict[str, Tensor]:
    """Make a state dict of a classifier of 1000 classes, with some tensors changed or left out."""
    state = {name: torch.ones_like(value) for name, value in Backbone(1000).state_dict().items()}
    for name, value in changes.items():
        key = name.replace("__", ".")
        state.pop(key, None)
        if value is not None:
            state[key] = value
    return state


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("form", ["plain", "wrapped", "safetensors"])
def test_a_backbone_takes_weights_without_its_classifier(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.torch.save_file(weights(), path)
    elif form == "wrapped":
        state = {f"module.{name}": value for name, value in weights().items()}
        torch.save({"epoch": 3, "state_dict": state}, path)
    else:
        torch.save(weights(), path)

    backbone = load_backbone("resnet18", path)

    assert all((value == 1).all() for value in backbone.module.state_dict().values())
    images = backbone.images
    assert (images.size, images.method) == (288, "bilinear")
    assert (images.mean, images.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


@pytest.mark.usefixtures("timm")
def test_another_size_is_taken_where_any_fits(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "w.pth")

    assert load_backbone("resnet18", tmp_path / "w.pth", 96).images.size == 96


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stem__weight": None}, "missing: stem.weight"),
        ({"stem__other": torch.ones(1)}, "unknown: stem.other"),
        (
            {"norm__bias": torch.ones(7)},
            r"shapes: norm.bias \(7,\) instead of \(4,\)",
        ),
        (
            {"stem__weight": None, "stem__bias": None, "norm__weight": None, "norm__bias": None},
            "missing: stem.weight, stem.bias, norm.weight and 1 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    changes: dict[str, Tensor | None], problem: str, tmp_path: Path
) -> None:
    torch.save(weights(**changes), tmp_path / "w.pth")

    with pytest.raises(EncoderError, match=f"w.pth does not fit resnet18: {problem}"):
        load_backbone("resnet18", tmp_path / "w.pth")


@pytest.mark.usefixtures("timm")
def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    """Nothing in them is executed."""
    for name, content in (("w.pth", b"cos\nsystem\n"), ("w.safetensors", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EncoderError, match=f"--weights: .*{name}: expected"):
            load_backbone("resnet18", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(EncoderError, match="expected a state dict of tensors"):
        load_backbone("resnet18", tmp_path / "list.pth")
    with pytest.raises(EncoderError, match="cannot be read: No such file"):
        load_backbone("resnet18", tmp_path / "missing.pth")


@pytest.mark.usefixtures("timm")
def test_a_name_that_timm_does_not_have_is_refused() -> None:
    with pytest.raises(
        EncoderError, match=r"no model 'resnet19' in timm 1\.0; similar: resnet18, resnet50"
    ):
        load_backbone("resnet19", None)


@pytest.mark.usefixtures("timm")
def test_without_a_hub_weights_are_asked_for() -> None:
    with pytest.raises(
        EncoderError, match="resnet18 cannot be loaded: no hub here; give its weights by --weights"
    ):
        load_backbone("resnet18", None)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(EncoderError, match=r"not installed: pip install '.*\[timm\]'"):
        load_backbone("resnet18", None)
