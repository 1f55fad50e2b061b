"""Whether a query is of the support set's classes at all, or of none of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

# Of the examples' standard deviation: steps of a few examples become a smooth curve.
_BANDWIDTH = 0.3
_LOGISTIC = 1.702  # the logistic curve of this steepness is nearly the normal distribution's


def strengths(logits: Floats) -> Floats:
    """Return the log-odds of each row's best class against all others, `(m,)` of `(m, way)`.

    They order as the greatest probability does. Logits themselves would not do: those of class
    means grow with the length of the features.
    """
    ordered = np.sort(logits.astype(np.float64), axis=1)
    best, others = ordered[:, -1], ordered[:, :-1]
    greatest = others[:, -1:]
    rest = greatest[:, 0] + np.log(np.exp(others - greatest).sum(axis=1))
    odds: Floats = (best - rest).astype(np.float32)
    return odds


def reference_scores(held_out_logits: Floats, classes: Integers) -> Floats:
    """Return the log-odds of left-out examples, in order; none where a class has one example."""
    if np.bincount(classes, minlength=held_out_logits.shape[1]).min() < 2:
        return np.empty(0, np.float32)
    return np.sort(strengths(held_out_logits))


def known_scores(logits: Floats, references: Floats) -> Floats:
    """Return for queries `(m, way)` the share of examples whose log-odds are lower, `(m,)`.

    So a threshold of 0.1 is passed by all but a tenth of the pictures of known classes (a p-value
    of conformal prediction; Vovk, Gammerman, Shafer 2005), here smoothed. `references` `(k,)` are
    the examples' own, k at least 1.
    """
    width = max(_BANDWIDTH * float(references.std()), 1e-6)
    distances = (strengths(logits)[:, None] - references) * (_LOGISTIC / width)
    lower = 1 / (1 + np.exp(-np.clip(distances, -50, 50)))
    shares: Floats = ((lower.sum(axis=1) + 0.5) / (len(references) + 1)).astype(np.float32)
    return shares


def least_threshold(references: Floats) -> float:
    """Return the least score that `known_scores` can give."""
    return 0.5 / (len(references) + 1)
