"""Temperature scaling: one factor that calibrates the probabilities of a network."""

import torch
from torch import Tensor
from torch.nn import functional

from kshot.trainer.errors import CalibrationError

# The range that a manifest allows.
LEAST, MOST = 0.001, 1000.0
MAX_ITERATIONS = 200


def fit_temperature(logits: Tensor, classes: Tensor) -> float:
    """Return the T that minimizes the mean of `-ln softmax(z / T)_y` (Guo et al. 2017).

    The logits z are `(n, way)`, their classes y int64 `(n,)`. The mean is convex in 1 / T, so it
    has one minimum or none; L-BFGS finds it over the logarithm of 1 / T, in float64. Raises
    `CalibrationError` when it is not between `LEAST` and `MOST`.
    """
    z = logits.detach().to(torch.float64)
    if _slope(z, classes, 1 / MOST) >= 0:
        raise CalibrationError(
            f"no temperature up to {MOST:g} is high enough; are the answers no better than chance?"
        )
    if _slope(z, classes, 1 / LEAST) <= 0:
        right = int((z.argmax(dim=1) == classes).sum())
        raise CalibrationError(
            f"no temperature down to {LEAST:g} is low enough: {right} of {len(z)} answers are "
            "right; use more or harder tasks"
        )
    log_inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_inverse],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = functional.cross_entropy(z * log_inverse.exp(), classes)
        # torch has no types for it, nor for the optimizer's step
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(torch.exp(-log_inverse.detach()))


def _slope(z: Tensor, classes: Tensor, inverse: float) -> float:
    """Return the derivative of the mean by 1 / T: the expected logit minus the class's own."""
    expected = (torch.softmax(z * inverse, dim=1) * z).sum(dim=1)  # (n,)
    return float((expected - z.gather(1, classes.unsqueeze(1)).squeeze(1)).mean())
