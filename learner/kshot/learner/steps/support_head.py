"""A head that is made from one support set, with the logits of each example left out."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import Head, RidgeSettings
from kshot.learner.networks.network import Network, Parameters
from kshot.learner.steps.head import prototype_head
from kshot.learner.steps.ridge import ridge_head


@dataclass(frozen=True)
class SupportHead:
    """A head `(way, F)`, `(way,)`, and logits `(n, way)` of each example by all the others.

    The rows of examples that are alone in their class are zero: without them it has no example.
    """

    weight: Tensor
    bias: Tensor
    held_out_logits: Tensor


def head_from_support(
    network: Network,
    parameters: Parameters,
    support: Tensor,
    classes: Tensor,
    way: int,
    *,
    head: Head,
    ridge: RidgeSettings | None = None,
) -> SupportHead:
    """Make head `prototype` or `ridge` of a support set `(n, channels, height, width)`.

    `parameters` carry the task axis, `{name: (1, *shape)}`; `classes` are int64 `(n,)`. Left-out
    logits come from features that all examples normalize together. Raises `ValueError` for another
    head, and for `ridge` without its settings.
    """
    with torch.no_grad():
        features = network.features(parameters, support.unsqueeze(0), None)[0][0]  # (n, F)
        if head is Head.PROTOTYPE:
            weight, bias = (part[0] for part in prototype_head(features[None], classes[None], way))
            held_out = _left_out_of_means(features, classes, weight / 2)
        elif head is Head.RIDGE and ridge is not None:
            fit = ridge_head(features, classes, way, ridge)
            weight, bias, held_out = fit.weight, fit.bias, fit.held_out_logits
        else:
            raise ValueError(f"expected head prototype, or ridge with its settings, got {head}")
    alone = torch.bincount(classes, minlength=way)[classes] < 2
    return SupportHead(weight, bias, held_out.masked_fill(alone.unsqueeze(1), 0.0))


def _left_out_of_means(features: Tensor, classes: Tensor, means: Tensor) -> Tensor:
    """Return squared distances to class means as logits, each example left out of its own mean."""
    way = len(means)
    counts = torch.bincount(classes, minlength=way)[classes].unsqueeze(1)
    own = (counts * means[classes] - features) / (counts - 1).clamp_min(1)  # (n, F)
    logits = 2 * features @ means.T - means.square().sum(1)
    left_out = 2 * (features * own).sum(1) - own.square().sum(1)
    mine = functional.one_hot(classes, way).bool()
    return torch.where(mine, left_out.unsqueeze(1), logits)
