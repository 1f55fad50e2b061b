"""A convolution with its batch norm, and the forward pass through such layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kshot.learner.networks.batch_norm import freeze, normalize
from kshot.learner.networks.convolution import convolve, convolve_images
from kshot.learner.networks.initial_weights import glorot_uniform


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution and the batch norm after it; the layer's name prefixes their tensors' names.

    The convolution has no bias: batch norm would cancel it. With `columns` it runs as a matrix
    product of columns: the same function.
    """

    name: str
    channels: int
    filters: int
    kernel: int = 3
    stride: int = 1
    columns: bool = False

    @property
    def weight(self) -> str:
        """Name of the kernels."""
        return f"{self.name}.convolution.weight"

    @property
    def scale_and_shift(self) -> tuple[str, str]:
        """Names of batch norm's parameters."""
        return f"{self.name}.batch_norm.scale", f"{self.name}.batch_norm.shift"

    @property
    def moments(self) -> tuple[str, str]:
        """Names of the mean and the variance."""
        return f"{self.name}.batch_norm.mean", f"{self.name}.batch_norm.variance"


def parameter_shapes(layers: Iterable[ConvolutionLayer]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layers' parameters, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        shapes[layer.weight] = (layer.filters, layer.channels, layer.kernel, layer.kernel)
        shapes |= dict.fromkeys(layer.scale_and_shift, (layer.filters,))
    return shapes


def statistics_shapes(layers: Iterable[ConvolutionLayer]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layers' batch statistics, by name."""
    return {name: (layer.filters,) for layer in layers for name in layer.moments}


def initialize(layers: Iterable[ConvolutionLayer], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw convolutions by Glorot's uniform rule; batch norm starts as the identity."""
    body = {}
    for layer in layers:
        scale, shift = layer.scale_and_shift
        shape = (layer.filters, layer.channels, layer.kernel, layer.kernel)
        body[layer.weight] = glorot_uniform(shape, generator)
        body[scale], body[shift] = torch.ones(layer.filters), torch.zeros(layer.filters)
    return body


class ForwardPass:
    """One batch `(T, n, channels, height, width)` on its way through a network's layers.

    Statistics that are given, for parameters with T = 1, make batch norm a part of the convolution,
    unless `fold` is false: products of columns have a task axis. Folded, there is no task axis
    between layers, `(T * n, channels, height, width)`, so that what runs an exported network may
    fuse them.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
        epsilon: float,
        *,
        fold: bool = True,
    ) -> None:
        self._parameters, self._given, self._epsilon = parameters, statistics, epsilon
        self._batch_shape = inputs.shape[:2]
        given = fold and statistics is not None
        self._folded = given and _task_counts(parameters, statistics or {}) == {1}
        self._used: dict[str, Tensor] = {}
        self.inputs = inputs.flatten(0, 1) if self._folded else inputs
        """The input of the first layer."""

    @property
    def statistics(self) -> Mapping[str, Tensor]:
        """The given statistics, or else those of the batch in the layers so far."""
        return self._used if self._given is None else self._given

    def apply(self, layer: ConvolutionLayer, hidden: Tensor) -> Tensor:
        """Convolve and normalize."""
        weight = self._parameters[layer.weight]
        scale, shift = (self._parameters[name] for name in layer.scale_and_shift)
        given = None
        if self._given is not None:
            mean, variance = (self._given[name] for name in layer.moments)
            given = (mean, variance)
            if self._folded:
                factor, offset = freeze(
                    scale.squeeze(0),
                    shift.squeeze(0),
                    (mean.squeeze(0), variance.squeeze(0)),
                    self._epsilon,
                )
                kernel = weight.squeeze(0) * factor[:, None, None, None]
                return convolve_images(hidden, kernel, layer.stride, offset)
        hidden = convolve(hidden, weight, layer.stride, layer.columns)
        hidden, used = normalize(hidden, scale, shift, given, self._epsilon)
        self._used |= dict(zip(layer.moments, used, strict=True))
        return hidden

    def features(self, hidden: Tensor) -> Tensor:
        """Reshape the last layer's output to `(T, n, feature_count)`."""
        if self._folded:
            return hidden.flatten(start_dim=1).reshape(*self._batch_shape, -1)
        return hidden.flatten(start_dim=2)


def _task_counts(*groups: Mapping[str, Tensor]) -> set[int]:
    """Return the task counts T of tensors `(T, ...)`."""
    return {len(tensor) for group in groups for tensor in group.values()}
