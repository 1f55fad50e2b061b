"""Meta-learning algorithms as weights of a task's inner gradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from kshot.trainer.recipe.recipe import Outer


@dataclass(frozen=True)
class Algorithm:
    """An outer update `w_1 g_1 + ... + w_k g_k` of a task's inner gradients.

    `g_i` is the gradient at the parameters before the i-th inner step, `phi_i`, on its batch
    (Nichol et al. 2018, the analysis). With `second_order` the last one goes back through the
    steps before it, and all other weights are zero. At least one weight is not 0.
    """

    weights: tuple[float, ...]
    second_order: bool = False

    def runs(self, tail: int | None = None) -> Iterator[tuple[float, slice]]:
        """Yield the runs of neighbouring steps of equal weight, as weight and steps.

        A run adds its weight times the sum of its steps: its displacement from start to end. A
        separate tail, the step of that number, is a run of its own.
        """
        kinds = [(weight, step == tail) for step, weight in enumerate(self.weights)]
        for (weight, _), steps in groupby(range(len(kinds)), kinds.__getitem__):
            numbers = list(steps)
            yield weight, slice(numbers[0], numbers[-1] + 1)


def algorithm_of(outer: Outer, step_count: int) -> Algorithm:
    """Return the algorithm that a recipe names, for its number of inner steps k."""
    if outer.gradient_weights is not None:
        return Algorithm(outer.gradient_weights)
    if outer.algorithm in ("reptile", "joint"):  # g_1 + ... + g_k; joint training has k = 1
        return Algorithm((1.0,) * step_count)
    # First-order MAML takes g_k as it is, and MAML U_1' ... U_{k-1}' g_k.
    last = (*(0.0,) * (step_count - 1), 1.0)
    return Algorithm(last, second_order=outer.algorithm == "maml")
