"""The four-block convolutional network of the few-shot literature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from kshot.learner.batch_norm import freeze, normalize
from kshot.learner.columns import convolve_columns
from kshot.learner.glorot import glorot_uniform

BLOCK_COUNT = 4
KERNEL = 3
STRIDE = 2


@dataclass(frozen=True)
class Conv4:
    """Four blocks of 3x3 convolution with stride 2, batch norm and ReLU (Reptile, Omniglot form).

    Padding is TensorFlow's SAME, as in the paper's code: an even side is padded by (0, 1), an odd
    one by (1, 1). The convolutions have no bias: batch norm would cancel it.
    """

    input_shape: tuple[int, int, int]
    filters: int = 64
    epsilon: float = 1e-3
    column_blocks: tuple[int, ...] = ()
    """Blocks whose convolution runs as a matrix product of columns: the same function."""

    def __post_init__(self) -> None:
        if type(self.filters) is not int or self.filters < 1:
            raise ValueError(f"conv4 filters is {self.filters}, wanted an integer of at least 1")
        if not set(self.column_blocks) <= set(range(1, BLOCK_COUNT + 1)):
            raise ValueError(
                f"conv4 column_blocks is {self.column_blocks!r}, wanted blocks of 1..{BLOCK_COUNT}"
            )
        if min(self.input_shape) < 1:
            raise ValueError(f"conv4 input shape is {self.input_shape}, wanted positive sides")

    @cached_property
    def _sides(self) -> tuple[tuple[int, int], ...]:
        """Height and width before each block and after the last."""
        sides = [self.input_shape[1:]]
        for _ in range(BLOCK_COUNT):
            height, width = sides[-1]
            sides.append((math.ceil(height / STRIDE), math.ceil(width / STRIDE)))
        return tuple(sides)

    @property
    def feature_count(self) -> int:
        """Length of the feature vector: filters times the last block's height and width."""
        height, width = self._sides[-1]
        return self.filters * height * width

    @cached_property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = self.input_shape[0]
        for block in range(1, BLOCK_COUNT + 1):
            shapes[f"block{block}.convolution.weight"] = (self.filters, channels, KERNEL, KERNEL)
            shapes[f"block{block}.batch_norm.scale"] = (self.filters,)
            shapes[f"block{block}.batch_norm.shift"] = (self.filters,)
            channels = self.filters
        return shapes

    @cached_property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name."""
        return {
            f"block{block}.batch_norm.{moment}": (self.filters,)
            for block in range(1, BLOCK_COUNT + 1)
            for moment in ("mean", "variance")
        }

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw convolutions by Glorot's uniform rule; batch norm starts as the identity."""
        body = {}
        for name, shape in self.body_shapes.items():
            if name.endswith("convolution.weight"):
                body[name] = glorot_uniform(shape, generator)
            else:
                body[name] = torch.ones(shape) if name.endswith("scale") else torch.zeros(shape)
        return body

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map ``(T, n, channels, height, width)`` to ``(T, n, feature_count)``."""
        if statistics is not None and _task_counts(parameters, statistics) == {1}:
            features = self._frozen_features(parameters, inputs.flatten(0, 1), statistics)
            return features.reshape(*inputs.shape[:2], -1), statistics
        used: dict[str, Tensor] = {}
        hidden = inputs
        for block in range(1, BLOCK_COUNT + 1):
            hidden = self._convolve(block, hidden, parameters[f"block{block}.convolution.weight"])
            prefix = f"block{block}.batch_norm"
            given = None
            if statistics is not None:
                given = (statistics[f"{prefix}.mean"], statistics[f"{prefix}.variance"])
            hidden, (used[f"{prefix}.mean"], used[f"{prefix}.variance"]) = normalize(
                hidden,
                parameters[f"{prefix}.scale"],
                parameters[f"{prefix}.shift"],
                given,
                self.epsilon,
            )
            hidden = functional.relu(hidden)
        return hidden.flatten(start_dim=2), used

    def tuned(self, _device: str) -> Self:
        """Return the same function in the form that takes its inner steps fastest.

        On a CPU every block's product of columns is faster than the library's convolution, as
        benchmarks/convolution_forms.py measures.
        """
        return replace(self, column_blocks=tuple(range(1, BLOCK_COUNT + 1)))

    def _convolve(self, block: int, inputs: Tensor, weight: Tensor) -> Tensor:
        if block in self.column_blocks:
            height, width = inputs.shape[3:]
            padding = (*_same_padding(width), *_same_padding(height))
            return convolve_columns(inputs, weight, STRIDE, padding)
        return convolve(inputs, weight)

    def _frozen_features(
        self, parameters: Mapping[str, Tensor], images: Tensor, statistics: Mapping[str, Tensor]
    ) -> Tensor:
        """Map ``(n, channels, height, width)`` to ``(n, feature_count)``: parameters with T = 1.

        Given statistics make batch norm a part of the convolution. There is no task axis between
        layers, so that what runs an exported network may fuse them.
        """
        hidden = images
        for block in range(1, BLOCK_COUNT + 1):
            prefix = f"block{block}.batch_norm"
            factor, offset = freeze(
                parameters[f"{prefix}.scale"].squeeze(0),
                parameters[f"{prefix}.shift"].squeeze(0),
                (
                    statistics[f"{prefix}.mean"].squeeze(0),
                    statistics[f"{prefix}.variance"].squeeze(0),
                ),
                self.epsilon,
            )
            kernel = parameters[f"block{block}.convolution.weight"].squeeze(0)
            kernel = kernel * factor[:, None, None, None]
            hidden = functional.relu(convolve_images(hidden, kernel, offset))
        return hidden.flatten(start_dim=1)


def convolve(inputs: Tensor, weight: Tensor) -> Tensor:
    """Convolve each task's images with its own kernel, or all with one kernel where T is 1.

    ``(T, n, channels, height, width)`` with ``(T or 1, filters, channels, 3, 3)`` gives
    ``(T, n, filters, ceil(height / 2), ceil(width / 2))``. Own kernels become one grouped
    convolution; between layers the tensors keep its memory order, so no layer copies.
    """
    task_count, image_count, channels, height, width = inputs.shape
    kernel_count, filters = weight.shape[:2]
    if kernel_count == 1:
        outputs = convolve_images(inputs.reshape(-1, channels, height, width), weight.squeeze(0))
        return outputs.reshape(task_count, image_count, *outputs.shape[1:])
    # (n, T * channels, height, width)
    images = inputs.transpose(0, 1).reshape(image_count, task_count * channels, height, width)
    kernels = weight.reshape(task_count * filters, *weight.shape[2:])
    outputs = convolve_images(images, kernels, groups=task_count)
    # (T, n, filters, height', width')
    return outputs.reshape(image_count, task_count, filters, *outputs.shape[2:]).transpose(0, 1)


def convolve_images(
    images: Tensor, kernel: Tensor, bias: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Convolve ``(n, channels, height, width)`` with stride 2 and TensorFlow's SAME padding."""
    height, width = images.shape[2:]
    padded = functional.pad(images, (*_same_padding(width), *_same_padding(height)))
    return functional.conv2d(padded, kernel, bias, stride=STRIDE, groups=groups)


def _task_counts(*groups: Mapping[str, Tensor]) -> set[int]:
    """Return the task counts T of tensors ``(T, ...)``."""
    return {len(tensor) for group in groups for tensor in group.values()}


def _same_padding(side: int) -> tuple[int, int]:
    total = max((math.ceil(side / STRIDE) - 1) * STRIDE + KERNEL - side, 0)
    return total // 2, total - total // 2
