"""How much the answers of an adapted tail count beside those of the head."""

from torch import Tensor
from torch.nn import functional

from kshot.bundle import TAIL_FOLDS, TailSpec

# Of the difference from the prior weight: as much as two nats of the left-out examples' loss.
PULL = 2.0
WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


# Of blank pictures, or of one picture many times: there is nothing to learn.
_ALL_ALIKE = 1 - 1e-5


def likeness_of(features: Tensor, classes: Tensor) -> float:
    """Return the mean cosine of examples of different classes `(n,)`, two or more.

    `features` `(n, feature_count)` have length 1 and come from the tail before it adapts: what it
    takes for alike, it must learn to tell apart.
    """
    apart = classes.unsqueeze(1) != classes.unsqueeze(0)  # (n, n)
    return (features @ features.T)[apart].mean().item()


def prior_weight(spec: TailSpec, features: Tensor, classes: Tensor) -> float:
    """Return the weight that pictures suggest by their likeness: `slope max(0, s - likeness)`."""
    return spec.slope * max(0.0, likeness_of(features, classes) - spec.likeness)


def all_alike(features: Tensor, classes: Tensor) -> bool:
    """Tell whether examples of different classes do not differ, so that no step would help."""
    return likeness_of(features, classes) > _ALL_ALIKE


def best_weight(head: Tensor, tail: Tensor, classes: Tensor, prior: float) -> float:
    """Choose b of `WEIGHTS` by the least of `sum_i -log softmax(head_i + b tail_i)[y_i] + P(b)`.

    `head` and `tail` `(n, way)` are log-probabilities of examples that were left out, `classes` y
    `(n,)` their own; `P(b) = PULL |b - prior|`.
    """

    def cost(weight: float) -> float:
        loss = functional.cross_entropy(head + weight * tail, classes, reduction="sum")
        return loss.item() + PULL * abs(weight - prior)

    return min(WEIGHTS, key=cost)


def folds(classes: Tensor, way: int) -> Tensor:
    """Return the fold of each example `(n,)`: the j-th of each class is in fold `j mod k`.

    There are k folds, three or as many as the smallest class has examples: at least one.
    """
    members = functional.one_hot(classes, way)
    count = min(TAIL_FOLDS, int(members.sum(dim=0).min()))
    numbers = (members.cumsum(dim=0) * members).sum(dim=1) - 1  # (n,), within the class
    return numbers % count
