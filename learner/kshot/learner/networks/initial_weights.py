"""How weights are drawn before training."""

import math

import torch
from torch import Tensor


def glorot_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a float32 weight `(out, in, ...)` from U(-a, a), a = sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio 2010, equation 16.
    """
    receptive_field = math.prod(shape[2:])
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * receptive_field))
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
