"""A head by ridge regression on features, whose settings follow from the support set itself."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import RidgeSettings

# Settings are chosen on at most this many examples: a step takes time by the cube of their number.
MAX_CHOOSING_COUNT = 200


@dataclass(frozen=True)
class RidgeFit:
    """A linear head `(way, F)`, `(way,)`, and what each example's logits are without it.

    `held_out_logits` `(n, way)` are those of the head that is fitted to all other examples.
    `block_weights` `(blocks,)` add up to 1.
    """

    weight: Tensor
    bias: Tensor
    held_out_logits: Tensor
    block_weights: Tensor


@dataclass(frozen=True)
class _Choice:
    """Logarithms of the block weights, up to a constant, of the penalty and of the scale."""

    block_weights: Tensor
    penalty: Tensor
    scale: Tensor

    def kernel(self, kernels: Tensor) -> Tensor:
        """Return the weighted sum of kernels `(blocks, n, m)`, plus 1 for the bias."""
        return torch.einsum("b,bij->ij", self.block_weights.softmax(0), kernels) + 1


def ridge_head(features: Tensor, classes: Tensor, way: int, settings: RidgeSettings) -> RidgeFit:
    """Fit a head to features `(n, F)` of classes `(n,)`; each class has an example.

    The features are blocks, one after another, of the sizes in `settings`. A block's kernel is
    `K_b = X_b X_b' / mean |x|^2`, with X centred. The scores of class c are kernel ridge regression
    to targets 1 and -1 (Rifkin, Yeo, Poggio 2003):

        K = sum_b w_b K_b + 1,   A = (K + l D)^-1,   a = A y,   D = diag(way n_c / n)

    so that all classes count alike. Logits are scores times s. The left-out score of example i is
    `y_i - a_i / A_ii`, exactly that of a fit to the others. Where classes have two examples, w, l
    and s minimize the cross-entropy of left-out logits by `step_count` steps of Adam from the
    settings' own values, which a penalty holds them to (weights of kernels by held-out loss:
    Chapelle et al. 2002). With one example per class nothing is left to choose by.
    """
    blocks = torch.split(features.detach(), [block.size for block in settings.blocks], dim=1)
    counts = torch.bincount(classes, minlength=way)
    balance = counts[classes] * (way / len(classes))  # (n,)
    center = [(block / balance.unsqueeze(1)).mean(0) for block in blocks]
    centered = [block - mean for block, mean in zip(blocks, center, strict=True)]
    sizes = [block.square().sum(1).mean().clamp_min(1e-12) for block in centered]
    kernels = torch.stack([x @ x.T / size for x, size in zip(centered, sizes, strict=True)])
    targets = 2 * functional.one_hot(classes, way).to(features.dtype) - 1

    choice = _choose(kernels, classes, targets, balance, settings)
    coefficients, held_out = _solve(choice, kernels, targets, balance)
    shares = choice.block_weights.softmax(0)
    weight = torch.cat(
        [
            share / size * (coefficients.T @ x)
            for share, size, x in zip(shares, sizes, centered, strict=True)
        ],
        dim=1,
    )
    bias = coefficients.sum(0) - weight @ torch.cat(center)
    scale = choice.scale.exp()
    return RidgeFit(scale * weight, scale * bias, scale * held_out, shares)


def _choose(
    kernels: Tensor, classes: Tensor, targets: Tensor, balance: Tensor, settings: RidgeSettings
) -> _Choice:
    """Choose the weights, the penalty and the scale by the left-out loss."""
    start = _Choice(
        torch.tensor([block.weight for block in settings.blocks]).log().to(kernels),
        torch.tensor(math.log(settings.penalty)).to(kernels),
        torch.tensor(math.log(settings.scale)).to(kernels),
    )
    chosen = _choosing_rows(classes)
    if not len(chosen) or not settings.step_count:
        return start
    kernels = kernels[:, chosen][:, :, chosen]
    classes, targets, balance = classes[chosen], targets[chosen], balance[chosen]
    leaves = [value.clone().requires_grad_() for value in vars(start).values()]
    optimizer = torch.optim.Adam(leaves, settings.learning_rate)
    first = start.block_weights.log_softmax(0)
    with torch.enable_grad():
        for _ in range(settings.step_count):
            choice = _Choice(*leaves)
            _, held_out = _solve(choice, kernels, targets, balance)
            loss = functional.cross_entropy(choice.scale.exp() * held_out, classes)
            moved = (choice.block_weights.log_softmax(0) - first).square().sum()
            moved = moved + (choice.penalty - start.penalty).square()
            moved = moved + (choice.scale - start.scale).square()
            loss = loss + settings.pull / len(classes) * moved
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                leaf.grad = gradient
            optimizer.step()
    return _Choice(*(leaf.detach() for leaf in leaves))


def _choosing_rows(classes: Tensor) -> Tensor:
    """Return the rows to choose by: classes with two examples, evenly, up to the most."""
    counts = torch.bincount(classes)
    rows = torch.nonzero(counts[classes] > 1).squeeze(1)
    if len(rows) <= MAX_CHOOSING_COUNT:
        return rows
    # The first of each class, then the second of each, and so on.
    order = torch.argsort(classes[rows], stable=True)
    starts = functional.pad(counts[counts > 1].cumsum(0), (1, 0))[:-1]
    ranks = torch.arange(len(rows), device=rows.device)
    ranks = ranks - starts.repeat_interleave(counts[counts > 1])
    return rows[order[torch.argsort(ranks, stable=True)[:MAX_CHOOSING_COUNT]]].sort().values


def _solve(
    choice: _Choice, kernels: Tensor, targets: Tensor, balance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the coefficients and the left-out scores of all examples, `(n, way)` each."""
    penalized = choice.kernel(kernels) + torch.diag(choice.penalty.exp() * balance)
    inverse = torch.linalg.inv(penalized)
    coefficients = inverse @ targets
    return coefficients, targets - coefficients / inverse.diagonal().unsqueeze(1)
