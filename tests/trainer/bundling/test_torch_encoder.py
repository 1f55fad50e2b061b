import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from kshot.trainer.bundling import torch_encoder
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.errors import EncoderError

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A convolution with batch norm that has seen data, and features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        generator = torch.Generator().manual_seed(0)
        for value in (*self.parameters(), *self.buffers()):
            if value.is_floating_point():
                value.data = torch.rand(value.shape, generator=generator) + 0.1

    def forward(self, images: Tensor) -> Tensor:
        """Map images to features."""
        return self.pool(self.stem(images)).flatten(1)


@pytest.mark.parametrize(("cut", "pooled"), [(None, True), ("stem", True), ("stem.0", False)])
def test_a_module_is_exported_in_evaluation_mode(cut: str | None, pooled: bool) -> None:
    """Its batch norm is folded: nothing of it is left in the graph."""
    module = Net().train()
    images = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))

    encoder = export_encoder(module, "net", SHAPE, cut, pooled=pooled)

    with torch.no_grad():
        part = module if cut is None else module.get_submodule(cut)
        wanted = part(images)
    if pooled and wanted.dim() == 4:
        wanted = wanted.mean(dim=(2, 3))
    encoded = encoder.run(images.numpy())
    assert encoder.output_shape == encoded.shape[1:]
    np.testing.assert_allclose(encoded.reshape(wanted.shape), wanted.numpy(), atol=1e-5)
    assert b"BatchNormalization" not in encoder.content


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(EncoderError, match="net: --cut: no layer 'stm'; similar: stem"):
        export_encoder(Net(), "net", SHAPE, "stm")


def test_what_cannot_be_exported_is_refused() -> None:
    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.sum() > 0:
                return images.flatten(1)
            return -images.flatten(1)

    with pytest.raises(EncoderError, match="net: cannot be exported to ONNX: "):
        export_encoder(Counting(), "net", SHAPE)


def test_another_answer_than_torchs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_encoder, "difference", lambda _found, _wanted: 0.5)

    with pytest.raises(EncoderError, match=r"got a relative difference of 0\.5"):
        export_encoder(Net(), "net", SHAPE)


class WithMaps(nn.Module):
    """Features followed by maps, and the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.net.stem(images)
        features = self.net.pool(maps).flatten(1)
        return torch.cat([features, maps.flatten(1)], dim=1)[:, :, None, None], maps


def test_maps_for_a_tail_are_a_second_output() -> None:
    module = WithMaps()
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))

    encoder = export_encoder(module, "net", SHAPE, map_shape=(4, 3, 3))

    session = onnxruntime.InferenceSession(encoder.content, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["encoded", "maps"]
    assert session.get_outputs()[1].shape[1:] == [4, 3, 3]
    encoded, maps = session.run(None, {"images": images.numpy()})
    assert encoder.output_shape == (4 + 4 * 3 * 3, 1, 1)
    np.testing.assert_array_equal(encoded[:, 4:, 0, 0], maps.reshape(2, -1))
    np.testing.assert_allclose(maps, module(images)[1].numpy(), atol=1e-5)
