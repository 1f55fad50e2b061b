"""The four-block convolutional network of the few-shot literature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self, get_args

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

BLOCK_COUNT = 4
STRIDE = 2
REDUCTION = 2**4  # all blocks together divide an image's sides by it

Downsampling = Literal["stride", "max_pool"]
"""The operation that halves an image's sides in each block."""


@dataclass(frozen=True)
class Conv4:
    """Four blocks of 3x3 convolution, batch norm and ReLU; each halves the sides, rounded up.

    By convolutions with stride 2 in the Reptile paper's form for Omniglot, by max-pooling after
    batch norm in its form for mini-ImageNet (with 32 filters). Padding is TensorFlow's SAME, as in
    the paper's code. The convolutions have no bias: batch norm would cancel it.
    """

    input_shape: tuple[int, int, int]
    filters: int = 64
    epsilon: float = 1e-3
    downsampling: Downsampling = "stride"
    column_blocks: tuple[int, ...] = ()
    """Blocks whose convolution runs as a matrix product of columns: the same function."""

    def __post_init__(self) -> None:
        if type(self.filters) is not int or self.filters < 1:
            raise ValueError(
                f"conv4 filters: expected an integer of at least 1, got {self.filters}"
            )
        if self.downsampling not in get_args(Downsampling):
            raise ValueError(
                f"conv4 downsampling: expected stride or max_pool, got {self.downsampling!r}"
            )
        if not set(self.column_blocks) <= set(range(1, BLOCK_COUNT + 1)):
            raise ValueError(
                f"conv4 column_blocks: expected blocks of 1..{BLOCK_COUNT}, "
                f"got {self.column_blocks!r}"
            )
        if min(self.input_shape) < 1:
            raise ValueError(f"conv4 input_shape: expected positive sides, got {self.input_shape}")

    @cached_property
    def _layers(self) -> tuple[ConvolutionLayer, ...]:
        return tuple(
            ConvolutionLayer(
                f"block{block}",
                channels=self.input_shape[0] if block == 1 else self.filters,
                filters=self.filters,
                stride=STRIDE if self.downsampling == "stride" else 1,
                columns=block in self.column_blocks,
            )
            for block in range(1, BLOCK_COUNT + 1)
        )

    @property
    def feature_count(self) -> int:
        """Length of the feature vector: filters times the last block's height and width."""
        # Halving again and again, rounded up each time, is dividing once and rounding up.
        height, width = (math.ceil(side / REDUCTION) for side in self.input_shape[1:])
        return self.filters * height * width

    @cached_property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""
        return parameter_shapes(self._layers)

    @cached_property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name."""
        return statistics_shapes(self._layers)

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw convolutions by Glorot's uniform rule; batch norm starts as the identity."""
        return initialize(self._layers, generator)

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map `(T, n, channels, height, width)` to `(T, n, feature_count)`."""
        fold = not self.column_blocks
        forward = ForwardPass(parameters, inputs, statistics, self.epsilon, fold=fold)
        hidden = forward.inputs
        for layer in self._layers:
            # The paper pools before ReLU, with the same result; in this order runtimes fuse ReLU.
            hidden = functional.relu(forward.apply(layer, hidden))
            if self.downsampling == "max_pool":
                hidden = max_pool(hidden)
        return forward.features(hidden), forward.statistics

    def tuned(self, _device: str) -> Self:
        """Return the same function in the form that takes its inner steps fastest.

        On a CPU that is a product of columns in every block where convolutions stride, and the
        library's convolution where they do not and columns overlap most, as
        `benchmarks/inner_step.py forms` measures.
        """
        if self.downsampling == "max_pool":
            return replace(self, column_blocks=())
        return replace(self, column_blocks=tuple(range(1, BLOCK_COUNT + 1)))
