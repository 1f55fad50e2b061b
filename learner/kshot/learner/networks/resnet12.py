"""The residual network of the few-shot literature, ResNet-12."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from kshot.learner.networks.convolution import max_pool
from kshot.learner.networks.convolution_layer import (
    ConvolutionLayer,
    ForwardPass,
    initialize,
    parameter_shapes,
    statistics_shapes,
)

WIDTHS = (1, 2, 4, 8)  # of the blocks, as multiples of the first
NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True)
class _Block:
    """Three 3x3 convolutions and the 1x1 convolution beside them, each with batch norm."""

    layers: tuple[ConvolutionLayer, ConvolutionLayer, ConvolutionLayer]
    shortcut: ConvolutionLayer

    def apply(self, forward: ForwardPass, inputs: Tensor) -> Tensor:
        """Add the outputs of convolutions and shortcut, and halve the sides, rounded up."""
        first, second, third = self.layers
        hidden = _activate(forward.apply(first, inputs))
        hidden = _activate(forward.apply(second, hidden))
        hidden = forward.apply(third, hidden) + forward.apply(self.shortcut, inputs)
        return max_pool(_activate(hidden))


@dataclass(frozen=True)
class Resnet12:
    """Four residual blocks of three convolutions each, max-pooled, and the mean over the image.

    Widths double from block to block, as in TADAM (Oreshkin et al. 2018), whose 64 to 512 filters
    are the default; MetaOptNet (Lee et al. 2019), whence leaky ReLU with slope 0.1, has 64, 160,
    320 and 640. No DropBlock: a network is a pure function here. Pooling rounds sides up: images of
    any size fit, 28x28 and 84x84 are usual.
    """

    input_shape: tuple[int, int, int]
    filters: int = 64
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        if type(self.filters) is not int or self.filters < 1:
            raise ValueError(
                f"resnet12 filters: expected an integer of at least 1, got {self.filters}"
            )
        if min(self.input_shape) < 1:
            raise ValueError(
                f"resnet12 input_shape: expected positive sides, got {self.input_shape}"
            )

    @cached_property
    def _blocks(self) -> tuple[_Block, ...]:
        channels = self.input_shape[0]
        blocks = []
        for number, width in enumerate(WIDTHS, start=1):
            filters = self.filters * width
            name = f"block{number}"
            layers = (
                ConvolutionLayer(f"{name}.layer1", channels, filters),
                ConvolutionLayer(f"{name}.layer2", filters, filters),
                ConvolutionLayer(f"{name}.layer3", filters, filters),
            )
            shortcut = ConvolutionLayer(f"{name}.shortcut", channels, filters, kernel=1)
            blocks.append(_Block(layers, shortcut))
            channels = filters
        return tuple(blocks)

    @property
    def feature_count(self) -> int:
        """Length of the feature vector: the last block's filters."""
        return self.filters * WIDTHS[-1]

    @cached_property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""
        return parameter_shapes(self._layers())

    @cached_property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name."""
        return statistics_shapes(self._layers())

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw convolutions by Glorot's uniform rule; batch norm starts as the identity."""
        return initialize(self._layers(), generator)

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map `(T, n, channels, height, width)` to `(T, n, feature_count)`."""
        forward = ForwardPass(parameters, inputs, statistics, self.epsilon)
        hidden = forward.inputs
        for block in self._blocks:
            hidden = block.apply(forward, hidden)
        return forward.features(hidden.mean(dim=(-2, -1))), forward.statistics

    def _layers(self) -> Iterator[ConvolutionLayer]:
        for block in self._blocks:
            yield from (*block.layers, block.shortcut)


def _activate(inputs: Tensor) -> Tensor:
    return functional.leaky_relu(inputs, NEGATIVE_SLOPE)
