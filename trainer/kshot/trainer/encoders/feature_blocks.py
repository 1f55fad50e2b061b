"""An encoder that joins blocks of features: of pretrained networks, and of the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

# Bins of a colour channel in the joint histogram.
_BINS = 4
_LEAST_SQUARE = 1e-12  # of a block's length: a block of zeros stays one
Statistic = Literal["mean", "deviation"]


@dataclass(frozen=True)
class NetworkBlock:
    """A statistic of the maps of a network's layer in each cell of a `grid` by `grid` raster.

    `layer` counts the network's outputs, -1 is the last. With `root`, its square root: it makes
    activations more alike (Hu, Gripon, Pateux 2021).
    """

    network: int
    layer: int
    statistic: Statistic = "mean"
    grid: int = 1
    root: bool = False


@dataclass(frozen=True)
class PixelBlock:
    """The picture itself, averaged over the cells of a raster: in gray, or in colours."""

    grid: int
    color: bool = False


@dataclass(frozen=True)
class HistogramBlock:
    """The roots of the shares of 4 x 4 x 4 colours, of every `stride`th pixel of such rows."""

    stride: int = 2


Block = NetworkBlock | PixelBlock | HistogramBlock


class BlockEncoder(nn.Module):
    """Maps images `(n, 3, height, width)` in -1..1 to joined blocks `(n, F, 1, 1)`.

    Each block is divided by its length, so that blocks are comparable. `tail_input` names a network
    and its layer whose maps a tail takes: their numbers follow the blocks, and they are a second
    output, `(n, *map_shape)`.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        blocks: Sequence[Block],
        tail_input: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.blocks = tuple(blocks)
        self._tail_input = tail_input

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the features `(n, F, 1, 1)`, maps within, and the maps if a tail takes them."""
        layers = self._layers(images)
        parts = self._parts(images, layers)
        if self._tail_input is None:
            return _joined(parts)
        network, layer = self._tail_input
        maps = layers[network][layer]
        return _joined([*parts, maps.flatten(1)]), maps

    def parts(self, images: Tensor) -> list[Tensor]:
        """Return the blocks `(n, size)`, of length 1."""
        return self._parts(images, self._layers(images))

    def _layers(self, images: Tensor) -> list[list[Tensor]]:
        return [network(images) for network in self.networks]

    def _parts(self, images: Tensor, layers: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        blocks = (_features(block, images, layers) for block in self.blocks)
        return [
            block * torch.rsqrt((block * block).sum(dim=1, keepdim=True).clamp_min(_LEAST_SQUARE))
            for block in blocks
        ]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts), dim=1).unsqueeze(-1).unsqueeze(-1)


def _features(block: Block, images: Tensor, maps: Sequence[Sequence[Tensor]]) -> Tensor:
    if isinstance(block, NetworkBlock):
        layer = maps[block.network][block.layer]
        if block.statistic == "deviation":
            mean = layer.mean(dim=(2, 3), keepdim=True)
            return (layer - mean).square().mean(dim=(2, 3)).sqrt()
        averages = _averages(layer, block.grid)
        return averages.clamp_min(0).sqrt() if block.root else averages
    if isinstance(block, PixelBlock):
        pixels = images if block.color else images.mean(dim=1, keepdim=True)
        return _averages(pixels, block.grid)
    return _histogram(images[:, :, :: block.stride, :: block.stride])


def _averages(maps: Tensor, grid: int) -> Tensor:
    """Average maps `(n, channels, height, width)` over cells: `(n, channels * cells)`."""
    if grid == 1:
        return maps.mean(dim=(2, 3))
    # As products of matrices: exporters know adaptive pooling only for sides that the grid divides.
    rows, columns = (_cells(side, grid).to(maps) for side in maps.shape[2:])
    return (rows @ maps @ columns.T).flatten(1)


def _cells(side: int, grid: int) -> Tensor:
    """Return the weights of pixels in cells `(grid, side)`; each row adds up to 1."""
    edges = torch.linspace(0, side, grid + 1, dtype=torch.float64)
    pixels = torch.arange(side, dtype=torch.float64)
    starts, ends = edges[:-1, None], edges[1:, None]
    overlap = (torch.minimum(ends, pixels + 1) - torch.maximum(starts, pixels)).clamp_min(0)
    return (overlap / overlap.sum(dim=1, keepdim=True)).float()


def _histogram(images: Tensor) -> Tensor:
    bins = ((images + 1) * (_BINS / 2)).floor().clamp(0, _BINS - 1)  # (n, 3, height, width)
    numbers = torch.arange(_BINS, device=images.device).view(_BINS, 1, 1)
    red, green, blue = (
        (bins[:, channel : channel + 1] == numbers).to(images.dtype).flatten(2)
        for channel in range(3)
    )  # (n, 4, pixels)
    pairs = (red.unsqueeze(2) * green.unsqueeze(1)).flatten(1, 2)  # (n, 16, pixels)
    return (pairs @ blue.transpose(1, 2) / red.shape[2]).sqrt().flatten(1)  # (n, 64)
