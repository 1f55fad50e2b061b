"""The rows of the Reptile paper's tables, and CIFAR-FS beside them, as what a bundle can answer.

o15 is Omniglot, 5-way 1-shot; m stands for mini-ImageNet, cifar for CIFAR-FS, best for Omniglot by
the recipe omniglot-best, which is no one's row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kshot.bench.row_file import Row
from kshot.bundle import BatchNormMode, Head, Manifest, Preconditioner, Provenance
from kshot.trainer.recipe.files import load_image_recipe

__all__ = ["BUILTIN", "TARGETS", "Adaptation", "Target", "adaptation_for", "target_of"]

# Appendix A of the paper: of every evaluation of Reptile.
STEP_COUNT = 50
TRANSDUCTIVE, PLAIN, SUPPORT = (
    BatchNormMode.TRANSDUCTIVE,
    BatchNormMode.SUPPORT_AND_QUERY,
    BatchNormMode.SUPPORT,
)
# With one query of each class.
PAPER_TASKS = 10_000
Fractions = Mapping[BatchNormMode, float]
# A published accuracy and its gate.
Goal = tuple[float, float]


@dataclass(frozen=True)
class Target:
    """The rows that one adaptation of the same tasks answers, one for each batch-norm mode.

    ``recipe`` is the training that they are about; where ``dataset`` is named, any training on that
    data set, split as in the recipe, answers them. ``builtin`` is the bundle that answers where
    none is given. ``published`` and ``gates`` are accuracies in 0..1; one that reaches its gate on
    ``task_count`` tasks counts as reproduced. ``batch_size`` is the paper's for Reptile;
    ``query_count`` is per class.
    """

    row: str
    algorithm: str
    recipe: str
    way: int
    shot: int
    batch_size: int
    builtin: str | None = None
    dataset: str | None = None
    modes: tuple[BatchNormMode, ...] = (TRANSDUCTIVE, PLAIN, SUPPORT)
    published: Fractions = field(default_factory=dict)
    gates: Fractions = field(default_factory=dict)
    task_count: int = PAPER_TASKS
    query_count: int = 1

    @property
    def name(self) -> str:
        """Return how the target is asked for: `o15`, or `o15-fomaml`."""
        return self.row if self.algorithm == "reptile" else f"{self.row}-{self.algorithm}"

    def wrong_origin(self, provenance: Provenance) -> str | None:
        """Say what keeps a bundle of this origin from answering the rows, None where it does.

        It has to be of the recipe's data and split. Where ``dataset`` is named nothing else counts;
        a row of the paper wants its recipe and its algorithm.
        """
        recipe = load_image_recipe(self.recipe)
        wanted: dict[str, object] = {"dataset": recipe.data.dataset, "split": recipe.data.split}
        if self.dataset is None:
            wanted |= {"recipe": self.recipe, "algorithm": self.algorithm}
        for key, value in wanted.items():
            found = getattr(provenance, key)
            if found != value:
                return f"{key} is {found}, wanted {value}"
        return None

    def owns(self, row: Row) -> bool:
        """Return whether a row of the results is one of these."""
        if self.dataset is not None:
            return row["row"] == self.row
        return (row["row"], row["algorithm"]) == (self.row, self.algorithm)


@dataclass(frozen=True)
class Adaptation:
    """How a row's tasks are adapted to."""

    step_count: int
    batch_size: int
    preconditioner: Preconditioner
    head: Head


def adaptation_for(target: Target, manifest: Manifest) -> Adaptation:
    """Return the paper's adaptation for Reptile, and a bundle's own for other algorithms.

    Reptile's are 50 steps from the trained head, with Adam's second moment as training left it
    where the bundle offers that. Steps of the bundles of MAML's recipes are few, and each sees the
    whole support set.
    """
    inner = manifest.inner_loop
    if manifest.provenance.algorithm == "reptile":
        carried = Preconditioner.CARRIED in inner.preconditioners
        preconditioner = Preconditioner.CARRIED if carried else inner.preconditioner
        return Adaptation(STEP_COUNT, target.batch_size, preconditioner, Head.TRAINED)
    batch_size = min(manifest.default_batch_size(target.way), target.way * target.shot)
    return Adaptation(inner.step_count, batch_size, inner.preconditioner, manifest.head.default)


# What ships with the package, by the recipe that it was trained with.
BUILTIN = {
    "omniglot-5way": "omniglot",
    "omniglot-20way": "omniglot-20way",
    "cifar-fs-best": "cifar-fs",
    "omniglot-best": "omniglot-best",
}


def _reptile(
    row: str, recipe: str, size: tuple[int, int, int], plain: Goal, transductive: Goal
) -> Target:
    """Make a target of Reptile; ``size`` is way, shot and batch size."""
    return Target(
        row,
        "reptile",
        recipe,
        *size,
        builtin=BUILTIN.get(recipe),
        published={PLAIN: plain[0], TRANSDUCTIVE: transductive[0]},
        gates={PLAIN: plain[1], TRANSDUCTIVE: transductive[1]},
    )


def _other(row: str, algorithm: str, training: str, published: float) -> Target:
    """Make a target of first-order MAML or MAML: the paper has their transductive figures alone."""
    size = next((of.way, of.shot, of.batch_size) for of in REPTILE if of.row == row)
    return Target(
        row,
        algorithm,
        f"{training}-{algorithm}",
        *size,
        modes=(TRANSDUCTIVE,),
        published={TRANSDUCTIVE: published},
    )


def _cifar(row: str, shot: int, published: float) -> Target:
    """Make a target that no paper on Reptile has: what others measured is its gate.

    Its tasks are those that others count on these images: 600 with 15 queries per class.
    """
    recipe = "cifar-fs-best"
    return Target(
        row,
        "fomaml",
        recipe,
        5,
        shot,
        25,
        builtin=BUILTIN[recipe],
        dataset="cifar-fs",
        gates={TRANSDUCTIVE: published},
        task_count=600,
        query_count=15,
    )


def _best(row: str, way: int, shot: int, gates: Fractions) -> Target:
    """Make a target of omniglot-best; the batch size is the bundle's own."""
    recipe = "omniglot-best"
    return Target(row, "fomaml", recipe, way, shot, 5, builtin=BUILTIN[recipe], gates=gates)


REPTILE = (
    _reptile("o15", "omniglot-5way", (5, 1, 5), (0.9539, 0.950), (0.9768, 0.975)),
    _reptile("o55", "omniglot-5way", (5, 5, 5), (0.9890, 0.986), (0.9948, 0.994)),
    _reptile("o120", "omniglot-20way", (20, 1, 10), (0.8814, 0.878), (0.8943, 0.889)),
    _reptile("o520", "omniglot-20way", (20, 5, 10), (0.9665, 0.964), (0.9712, 0.965)),
    _reptile("m15", "mini-imagenet-5way", (5, 1, 5), (0.4707, 0.460), (0.4997, 0.489)),
    _reptile("m55", "mini-imagenet-5way", (5, 5, 15), (0.6274, 0.618), (0.6599, 0.654)),
)
OTHERS = (
    _other("o15", "fomaml", "omniglot-5way", 0.983),
    _other("o55", "fomaml", "omniglot-5way-5shot", 0.992),
    _other("o120", "fomaml", "omniglot-20way", 0.894),
    _other("o520", "fomaml", "omniglot-20way", 0.979),
    _other("m15", "fomaml", "mini-imagenet-5way", 0.4807),
    _other("m55", "fomaml", "mini-imagenet-5way-5shot", 0.6315),
    _other("o15", "maml", "omniglot-5way", 0.987),
    _other("o55", "maml", "omniglot-5way-5shot", 0.999),
    _other("o120", "maml", "omniglot-20way", 0.958),
    _other("o520", "maml", "omniglot-20way", 0.989),
    _other("m15", "maml", "mini-imagenet-5way", 0.4870),
    _other("m55", "maml", "mini-imagenet-5way-5shot", 0.6311),
)
TARGETS = (
    *(target for first in REPTILE for target in (first, *OTHERS) if target.row == first.row),
    _best("best15", 5, 1, {SUPPORT: 0.970, TRANSDUCTIVE: 0.985}),
    _best("best55", 5, 5, {}),
    _best("best120", 20, 1, {}),
    _best("best520", 20, 5, {}),
    # PaddleFSL's first-order MAML with the same network; docs/reproduction.md cites it.
    _cifar("cifar15", 1, 0.5706),
    _cifar("cifar55", 5, 0.7224),
)


def target_of(row: Row) -> Target | None:
    """Return the target whose row a row of the results is, None where it is no one's."""
    return next((target for target in TARGETS if target.owns(row)), None)
