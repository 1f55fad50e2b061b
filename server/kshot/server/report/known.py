"""Whether a query is of the support set's classes at all, or of none of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

# Of the examples' standard deviation: steps of a few examples become a smooth curve.
_BANDWIDTH = 0.3
_ERROR_FUNCTION = np.vectorize(math.erf, otypes=[np.float64])


def reference_scores(held_out_logits: Floats, classes: Integers) -> Floats:
    """Return the strongest left-out logit of each example with company in its class, `(k,)`."""
    counts = np.bincount(classes, minlength=held_out_logits.shape[1])
    return np.sort(held_out_logits[counts[classes] > 1].max(axis=1))


def known_scores(logits: Floats, references: Floats) -> Floats:
    """Return for queries `(m, way)` the share of examples whose strongest logit is weaker, `(m,)`.

    So a threshold of 0.1 is passed by all but a tenth of the pictures of known classes (a p-value
    of conformal prediction; Vovk, Gammerman, Shafer 2005), here smoothed. `references` `(k,)` are
    the examples' own logits, k at least 1.
    """
    width = max(_BANDWIDTH * float(references.std()), 1e-6)
    distances = (logits.max(axis=1)[:, None] - references) / (width * math.sqrt(2))
    weaker = (1 + _ERROR_FUNCTION(distances)) / 2
    shares: Floats = ((weaker.sum(axis=1) + 0.5) / (len(references) + 1)).astype(np.float32)
    return shares
