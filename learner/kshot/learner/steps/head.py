"""Heads that are made from a support set."""

import torch
from torch import Tensor

from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import Network, Parameters


def prototype_head(features: Tensor, classes: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """Make heads from features `(T, n, F)` of classes `(T, n)`: `(T, way, F)`, `(T, way)`.

    Row c comes from the mean feature m of its class, `w = 2 m` and `b = -|m|^2`, so that logits
    are squared distances to class means up to a constant (Triantafillou et al. 2020, Proto-MAML,
    section 3). Every class needs an example. Differentiable.
    """
    # Not by one_hot: it reads the classes, which a compiler cannot trace.
    ways = torch.arange(way, device=classes.device)
    membership = (classes.unsqueeze(2) == ways).to(features.dtype)  # (T, n, way)
    counts = membership.sum(dim=1).unsqueeze(2)
    prototypes = membership.transpose(1, 2) @ features / counts
    return 2 * prototypes, -prototypes.square().sum(dim=2)


def support_head(
    network: Network, parameters: Parameters, support: Tensor, classes: Tensor, way: int
) -> tuple[Tensor, Tensor]:
    """Make `prototype_head` of T support sets, as constants, from each one's own statistics."""
    with torch.no_grad():
        features, _ = network.features(parameters, support, None)
        return prototype_head(features, classes, way)


def with_prototype_heads(
    network: Network, layout: ParameterLayout, vectors: Tensor, support: Tensor, classes: Tensor
) -> Tensor:
    """Replace the heads of T parameter vectors `(T, P)` by those of their support sets.

    `support` `(T, n, channels, height, width)`, its classes int64 `(T, n)`.
    """
    way = layout.shapes["head.bias"][0]
    weight, bias = support_head(network, layout.split(vectors), support, classes, way)
    return torch.cat([vectors[:, : layout.body_size], weight.flatten(1), bias], dim=1)
