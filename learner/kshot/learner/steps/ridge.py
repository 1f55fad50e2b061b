"""A head by ridge regression on blocks of features, which the support set itself weighs."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import RidgeSettings

# The loss of a block is that at the best of these scales: blocks are compared, not their scales.
_SCALES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class RidgeFit:
    """A linear head `(way, F)`, `(way,)`, and what each example's logits are without it.

    `held_out_logits` `(n, way)` are those of heads that are fitted to all other examples.
    `block_weights` `(blocks,)` add up to 1.
    """

    weight: Tensor
    bias: Tensor
    held_out_logits: Tensor
    block_weights: Tensor


@dataclass(frozen=True)
class _Block:
    """The fit to one block `(n, f)`: a head, left-out scores `(n, way)`, and their loss."""

    weight: Tensor
    bias: Tensor
    held_out: Tensor
    loss: Tensor


def ridge_head(features: Tensor, classes: Tensor, way: int, settings: RidgeSettings) -> RidgeFit:
    """Fit a head to features `(n, F)` of classes `(n,)`; each class has an example.

    The features are blocks b, one after another. Each has its own fit: with X_b centred and
    `K_b = X_b X_b' / mean |x|^2`, its scores of class c are kernel ridge regression to targets 1
    and -1 (Rifkin, Yeo, Poggio 2003):

        A = (K_b + 1/n + l D)^-1,   a = A y,   D = diag(way n_c / n)

    so that all classes count alike. The left-out score of example i is `y_i - a_i / A_ii`: that of
    a fit to the others with the same centre and size. Their cross-entropy L_b is the block's
    evidence, and

        logits = s sum_b w_b scores_b,   w_b ~ v_b exp(-e k L_b)

    with k examples per class. Penalty l, weights v, evidence e and scale s are those of the rule
    for k. With one example per class there is no evidence: w = v.
    """
    rule = settings.rule(way, len(classes))
    counts = torch.bincount(classes, minlength=way)
    balance = (counts[classes] * way / len(classes)).to(features)  # (n,)
    told = counts[classes] > 1
    blocks = [
        _fit_block(block, classes, way, rule.penalty * balance, told)
        for block in torch.split(features.detach(), list(settings.block_sizes), dim=1)
    ]
    losses = torch.stack([block.loss for block in blocks])
    prior = torch.tensor(rule.weights).log().to(losses)
    weights = (prior - rule.evidence * len(classes) / way * losses).softmax(0)
    parts = [weight * rule.scale for weight in weights]
    return RidgeFit(
        torch.cat([part * block.weight for part, block in zip(parts, blocks, strict=True)], dim=1),
        torch.stack([part * block.bias for part, block in zip(parts, blocks, strict=True)]).sum(0),
        torch.stack([p * block.held_out for p, block in zip(parts, blocks, strict=True)]).sum(0),
        weights,
    )


def _fit_block(
    features: Tensor, classes: Tensor, way: int, penalties: Tensor, told: Tensor
) -> _Block:
    """Fit one block; its loss is that of the examples that are `told` from others of their class.

    `penalties` `(n,)` are `l D`.
    """
    count = len(classes)
    shares = 1 / penalties
    center = (shares / shares.sum()) @ features
    centered = features - center
    size = centered.square().sum(1).mean().clamp_min(1e-12)
    kernel = centered @ centered.T / size + 1 / count
    targets = 2 * functional.one_hot(classes, way).to(features.dtype) - 1
    inverse = torch.linalg.inv(kernel + torch.diag(penalties))
    coefficients = inverse @ targets
    held_out = targets - coefficients / inverse.diagonal().unsqueeze(1)
    weight = coefficients.T @ centered / size
    bias = coefficients.sum(0) / count - weight @ center
    if told.any():
        scaled = (scale * held_out[told] for scale in _SCALES)
        losses = [functional.cross_entropy(logits, classes[told]) for logits in scaled]
        loss = torch.stack(losses).amin()
    else:
        loss = features.new_zeros(())
    return _Block(weight, bias, held_out, loss)
