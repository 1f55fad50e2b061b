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
    """Compute `scale * (x - mean) / sqrt(variance + epsilon) + shift` per task and channel.

    Inputs `(T, n, channels, ...)`, of images or of vectors; scale, shift, mean and variance
    `(T or 1, channels)`. Without given statistics, mean and biased variance are those of each
    task's own batch (Ioffe and Szegedy 2015, algorithm 1). Returns the outputs and the statistics
    used.
    """
    rank = inputs.dim()
    if statistics is not None:
        factor, offset = freeze(scale, shift, statistics, epsilon)
        return inputs * _as_channels(factor, rank) + _as_channels(offset, rank), statistics
    averaged = (1, *range(3, rank))
    mean = inputs.mean(dim=averaged, keepdim=True)
    difference = inputs - mean
    variance = (difference * difference).mean(dim=averaged, keepdim=True)
    outputs = difference * torch.rsqrt(variance + epsilon) * _as_channels(scale, rank)
    return outputs + _as_channels(shift, rank), (mean.flatten(1), variance.flatten(1))


def freeze(
    scale: Tensor, shift: Tensor, statistics: tuple[Tensor, Tensor], epsilon: float
) -> tuple[Tensor, Tensor]:
    """Compute factor and offset of batch norm with given statistics: `factor * x + offset`.

    All are `(..., channels)`. `factor = scale / sqrt(variance + epsilon)` and `offset = shift
    - factor * mean`; a layer before it takes them as `factor * weight` and as its bias.
    """
    mean, variance = statistics
    factor = scale * torch.rsqrt(variance + epsilon)
    return factor, shift - mean * factor


def _as_channels(vector: Tensor, rank: int) -> Tensor:
    # (T, 1, channels, 1, ...)
    return vector[(slice(None), None, slice(None), *(None,) * (rank - 3))]
