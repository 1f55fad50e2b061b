"""How far features lie from all that the examples of a support set span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# More examples of a class are left out: with 20, all of them gain a point of AUROC.
_MOST_OF_A_CLASS = 5
_PENALTY = 0.1
_LEAST_VARIANCE = 1e-3  # that of a copy of an example, but for rounding
_LEAST_SQUARE = 1e-12
_SAME_PICTURE = 1e-8  # the mean square distance of examples that differ by rounding alone
_MOST_SEPARATION = 3.0  # enough to be right in 98 of 100 cases


@dataclass(frozen=True)
class SupportSpan:
    """What the novelty of other features is computed from, for m anchors in blocks of F features.

    `block_sizes`, `scales` and `weights` are `(blocks,)`. A block of unit length times its scale,
    less its part of `center` `(F,)`, is what `basis` `(m, F)` takes, whose numbers are those of
    float16. `offset` `(1,)` is added to all variances.
    """

    block_sizes: Floats
    center: Floats
    scales: Floats
    basis: Floats
    offset: Floats
    weights: Floats

    def novelties(self, features: Floats) -> Floats:
        """Return the novelty of features `(n, F, ...)`, `(n,)`; `span_of` has the formula."""
        rows = features.reshape(len(features), -1)
        starts = np.concatenate([[0], np.cumsum(self.block_sizes[:-1])]).astype(int)
        sizes = self.block_sizes.astype(int)
        squares = np.maximum(np.add.reduceat(rows * rows, starts, axis=1), _LEAST_SQUARE)
        factors = self.scales / np.sqrt(squares)
        centered: Floats = rows * np.repeat(factors, sizes, axis=1) - self.center
        variances = np.add.reduceat(centered * centered, starts, axis=1) + self.offset
        for block, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            part = slice(start, start + size)
            variances[:, block] -= _squares(centered[:, part] @ self.basis[:, part].T)
        novelties: Floats = np.log(np.maximum(variances, _LEAST_VARIANCE)) @ self.weights
        return novelties


def span_of(
    features: Floats, classes: Integers, block_sizes: Sequence[int]
) -> tuple[SupportSpan, Floats]:
    """Return the span of features `(n, F, ...)`, and each example's novelty without it, `(n,)`.

    Each class has two examples or more; `classes` are `(n,)`. A block's variance is the predictive
    one of Gaussian process or ridge regression (Rasmussen, Williams 2006, eq. 2.26) on anchors, up
    to five examples of each class. With rows x of unit length, centred on the anchors' mean and
    divided by their root mean square length (unless all are one picture), the anchors' K and
    A = (K + 1/m + l I)^-1,

        v(x) = |x|^2 - k' A k + l / (m (1 + l)),   k_i = x_i' x
        v(x_i) = 1 / A_ii - l   for anchor i, left out
        novelty = sum_b w_b log v_b,   w_b ~ r_b max(0, s_b)^2

    The weights say how well a block tells unknown classes: s_b is the difference of log v between
    anchors whose whole class is left out and those left out alone, in standard deviations, at most
    3; r_b is the share of left-out anchors that its regression on the classes answers right.
    """
    rows = np.split(features.reshape(len(features), -1), np.cumsum(block_sizes)[:-1], axis=1)
    anchors = np.sort(np.concatenate([_first(classes, one) for one in np.unique(classes)]))
    blocks = [_Block.of(_unit(block), anchors, classes[anchors]) for block in rows]
    weights = np.array([block.weight for block in blocks])
    weights /= weights.sum()
    span = SupportSpan(
        np.array(block_sizes, np.float32),
        np.concatenate([block.center for block in blocks]),
        np.array([block.scale for block in blocks], np.float32),
        np.concatenate([block.basis for block in blocks], axis=1),
        np.array([_offset(len(anchors))], np.float32),
        weights.astype(np.float32),
    )
    novelties: Floats = (weights @ np.log([block.variances for block in blocks])).astype(np.float32)
    return span, novelties


def span_from(arrays: Mapping[str, Floats]) -> SupportSpan | None:
    """Return the span whose fields were stored; None without them."""
    return SupportSpan(**arrays) if arrays else None


@dataclass(frozen=True)
class _Block:
    """One block's part of a span, its weight before all add up to 1, variances `(n,)`."""

    center: Floats
    scale: float
    basis: Floats
    weight: float
    variances: Doubles

    @staticmethod
    def of(features: Floats, anchors: Integers, classes: Integers) -> _Block:
        """Take rows of unit length; `anchors` `(m,)` of them have the `classes` `(m,)`."""
        count = len(anchors)
        center = features[anchors].mean(axis=0)
        square = float(_squares(features[anchors] - center).mean())
        differ = square > _SAME_PICTURE
        scale = 1 / np.sqrt(square) if differ else 1.0
        centered = (features - center) * np.float32(scale)
        kernel = (centered @ centered[anchors].T).astype(np.float64)  # (n, m)
        inverse = np.linalg.inv(kernel[anchors] + 1 / count + _PENALTY * np.eye(count))
        variances = _squares(centered) + _offset(count) - ((kernel @ inverse) * kernel).sum(axis=1)
        alone = 1 / np.diagonal(inverse)
        variances[anchors] = alone - _PENALTY
        variances = np.maximum(variances, _LEAST_VARIANCE)
        root = np.linalg.cholesky(inverse)
        basis = (root.T @ centered[anchors]).astype(np.float16).astype(np.float32)
        apart = np.maximum(_without_class(inverse, classes) - _PENALTY, _LEAST_VARIANCE)
        weight = _separation(np.log(variances[anchors]), np.log(apart)) ** 2
        targets = 2.0 * (classes[:, None] == np.unique(classes)) - 1
        answers = (targets - alone[:, None] * (inverse @ targets)).argmax(axis=1)
        right = (answers == targets.argmax(axis=1)).mean() if differ else 0.0
        return _Block(
            center * np.float32(scale), float(scale), basis, max(weight * right, 1e-9), variances
        )


def _without_class(inverse: Doubles, classes: Integers) -> Doubles:
    """Return for each anchor 1 / A_ii of the inverse without the others of its class, `(m,)`."""
    result = np.empty(len(classes))
    for one in np.unique(classes):
        own = np.flatnonzero(classes == one)
        result[own] = np.diagonal(np.linalg.inv(inverse[np.ix_(own, own)]))
    return result


def _separation(near: Doubles, far: Doubles) -> float:
    spread = np.sqrt((near.var() + far.var()) / 2)
    separation = float((far.mean() - near.mean()) / max(spread, 1e-6))
    return min(max(0.0, separation), _MOST_SEPARATION)


def _offset(count: int) -> float:
    """Return what centring on `count` anchors adds to the variance at every point."""
    return _PENALTY / (count * (1 + _PENALTY))


def _first(classes: Integers, one: int) -> Integers:
    return np.flatnonzero(classes == one)[:_MOST_OF_A_CLASS]


def _unit(rows: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.maximum(_squares(rows), _LEAST_SQUARE))
    return rows / lengths[:, None]


def _squares(rows: Floats) -> Floats:
    squares: Floats = np.einsum("ij,ij->i", rows, rows)
    return squares
