"""Batch normalization over one task's batch, without running averages."""

import torch
from torch import Tensor


def normalize(
    inputs: Tensor,
    scale: Tensor,
    shift: Tensor,
    statistics: tuple[Tensor, Tensor] | None,
    epsilon: float,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Compute ``scale * (x - mean) / sqrt(variance + epsilon) + shift`` per task and channel.

    Inputs ``(T, n, channels, height, width)``; scale, shift, mean and variance ``(T or 1,
    channels)``. Without given statistics, mean and biased variance are those of each task's own
    batch (Ioffe and Szegedy 2015, algorithm 1). Returns the outputs and the statistics used.
    """
    if statistics is not None:
        factor, offset = freeze(scale, shift, statistics, epsilon)
        return inputs * _as_channels(factor) + _as_channels(offset), statistics
    mean = inputs.mean(dim=(1, 3, 4), keepdim=True)
    difference = inputs - mean
    variance = (difference * difference).mean(dim=(1, 3, 4), keepdim=True)
    outputs = difference * torch.rsqrt(variance + epsilon) * _as_channels(scale)
    return outputs + _as_channels(shift), (mean.flatten(1), variance.flatten(1))


def freeze(
    scale: Tensor, shift: Tensor, statistics: tuple[Tensor, Tensor], epsilon: float
) -> tuple[Tensor, Tensor]:
    """Compute factor and offset of batch norm with given statistics: ``factor * x + offset``.

    All are ``(..., channels)``. ``factor = scale / sqrt(variance + epsilon)`` and ``offset = shift
    - factor * mean``; a convolution before it takes them as ``factor * kernel`` and as its bias.
    """
    mean, variance = statistics
    factor = scale * torch.rsqrt(variance + epsilon)
    return factor, shift - mean * factor


def _as_channels(vector: Tensor) -> Tensor:
    # (T, 1, channels, 1, 1)
    return vector[:, None, :, None, None]
