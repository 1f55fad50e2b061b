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
    if statistics is None:
        mean = inputs.mean(dim=(1, 3, 4), keepdim=True)
        difference = inputs - mean
        variance = (difference * difference).mean(dim=(1, 3, 4), keepdim=True)
        used = (mean.flatten(1), variance.flatten(1))
    else:
        mean, variance = (_as_channels(statistic) for statistic in statistics)
        difference = inputs - mean
        used = statistics
    outputs = difference * torch.rsqrt(variance + epsilon) * _as_channels(scale)
    return outputs + _as_channels(shift), used


def _as_channels(vector: Tensor) -> Tensor:
    # (T, 1, channels, 1, 1)
    return vector[:, None, :, None, None]
