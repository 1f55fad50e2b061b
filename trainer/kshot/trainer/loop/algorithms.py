"""Meta-learning algorithms as weights of a task's inner gradients."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from kshot.trainer.recipe.recipe import Outer

Weights = tuple[float, ...]


@dataclass(frozen=True)
class Algorithm:
    """An outer update `w_1 g_1 + ... + w_k g_k` of a task's inner gradients.

    `g_i` is the gradient at the parameters before the i-th inner step, `phi_i`, on its batch
    (Nichol et al. 2018, the analysis). With `second_order` the last one goes back through the
    steps before it, and all other weights are zero.
    """

    weights: Weights
    second_order: bool = False

    def runs(self) -> Iterator[tuple[float, slice]]:
        """Yield the runs of neighbouring steps of equal weight, as weight and steps.

        A run adds its weight times the sum of its steps: its displacement from start to end.
        """
        for weight, steps in groupby(range(len(self.weights)), self.weights.__getitem__):
            numbers = list(steps)
            yield weight, slice(numbers[0], numbers[-1] + 1)


def algorithm_of(outer: Outer, step_count: int) -> Algorithm:
    """Return the algorithm that a recipe names, for its number of inner steps k."""
    if outer.gradient_weights is not None:
        return Algorithm(outer.gradient_weights)
    return ALGORITHMS[outer.algorithm](step_count)


ALGORITHMS: Mapping[str, Callable[[int], Algorithm]] = {
    # g_1 + ... + g_k: Reptile; with k = 1 it is joint training
    "reptile": lambda step_count: Algorithm((1.0,) * step_count),
    "joint": lambda step_count: Algorithm((1.0,) * step_count),
    # g_k: the last gradient, as it is
    "fomaml": lambda step_count: Algorithm((*(0.0,) * (step_count - 1), 1.0)),
    # U_1' ... U_{k-1}' g_k
    "maml": lambda step_count: Algorithm((*(0.0,) * (step_count - 1), 1.0), second_order=True),
}
