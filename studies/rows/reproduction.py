"""The rows of the Reptile paper's tables, and others beside them, as what a bundle can answer.

`o15` is Omniglot, 5-way 1-shot; `m` stands for mini-ImageNet, `cifar` for CIFAR-FS. `best` stands
for Omniglot by the recipe `omniglot-best`, which the paper does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kshot.bundle import BatchNormMode, Provenance
from kshot.trainer.recipe.files import load_image_recipe
from studies.common.evaluation import Tasks

__all__ = ["TARGETS", "Target"]

TRANSDUCTIVE, PLAIN, SUPPORT = (
    BatchNormMode.TRANSDUCTIVE,
    BatchNormMode.SUPPORT_AND_QUERY,
    BatchNormMode.SUPPORT,
)
# With one query of each class.
PAPER_TASKS = 10_000
Fractions = Mapping[BatchNormMode, float]
O5, O20, M5 = "omniglot-5way", "omniglot-20way", "mini-imagenet-5way"
# What ships with the package, by the recipe that it was trained with.
BUILTIN = {
    O5: "omniglot",
    O20: "omniglot-20way",
    "cifar-fs-best": "cifar-fs",
    "omniglot-best": "omniglot-best",
}


@dataclass(frozen=True)
class Target:
    """One adaptation of the same tasks, answered in each batch-norm mode.

    A bundle of `recipe` answers it; if `dataset` is named, a bundle of any training on that data
    set does. `published` and `gates` are accuracies in 0..1; a mode is reproduced if it reaches its
    gate on `decisive_count` tasks. `batch_size` is the paper's, for Reptile.
    """

    row: str
    algorithm: str
    recipe: str
    tasks: Tasks
    batch_size: int
    dataset: str | None = None
    modes: tuple[BatchNormMode, ...] = (TRANSDUCTIVE, PLAIN, SUPPORT)
    published: Fractions = field(default_factory=dict)
    gates: Fractions = field(default_factory=dict)
    decisive_count: int = PAPER_TASKS

    @property
    def name(self) -> str:
        """Return the name for `--only`: `o15`, or `o15-fomaml`."""
        return self.row if self.algorithm == "reptile" else f"{self.row}-{self.algorithm}"

    @property
    def builtin(self) -> str | None:
        """Return the name of the bundle that answers unless another is given."""
        return BUILTIN.get(self.recipe)

    def mismatch(self, provenance: Provenance) -> str | None:
        """Say why a bundle of this origin does not answer the row; None if it does."""
        recipe = load_image_recipe(self.recipe)
        expected: dict[str, object] = {"dataset": recipe.data.dataset, "split": recipe.data.split}
        if self.dataset is None:
            expected |= {"recipe": self.recipe, "algorithm": self.algorithm}
        for key, value in expected.items():
            if getattr(provenance, key) != value:
                return f"{key}: expected {value}, got {getattr(provenance, key)}"
        return None


def _paper(
    row: str,
    size: tuple[int, int, int],
    reptile: tuple[float, float, float, float],
    recipes: str,
    others: tuple[float, float],
) -> list[Target]:
    """Make the targets of a row: Reptile, then first-order MAML and MAML.

    `size` is way, shot and batch size; `reptile` is figure and gate in the plain mode, then in the
    transductive mode, which is the only one that the paper has of the others. `recipes` begins
    their names. The bundle with 20 ways is far from the paper's figures: 300 tasks tell.
    """
    way, shot, batch_size = size
    name = recipes.removesuffix("-5shot")
    tasks = Tasks(way, shot, 1, 300 if way == 20 else PAPER_TASKS)
    published, gates = ({PLAIN: reptile[at], TRANSDUCTIVE: reptile[at + 2]} for at in (0, 1))
    first = Target(row, "reptile", name, tasks, batch_size, published=published, gates=gates)
    return [
        first,
        *(
            replace(
                first,
                algorithm=algorithm,
                recipe=f"{recipes}-{algorithm}",
                tasks=replace(tasks, task_count=PAPER_TASKS),
                modes=(TRANSDUCTIVE,),
                published={TRANSDUCTIVE: figure},
                gates={},
            )
            for algorithm, figure in zip(("fomaml", "maml"), others, strict=True)
        ),
    ]


def _best(row: str, way: int, shot: int, task_count: int, gates: Fractions) -> Target:
    """Make a target of `omniglot-best`; the gates are what it was to reach."""
    tasks = Tasks(way, shot, 1, task_count)
    return Target(row, "fomaml", "omniglot-best", tasks, 5, gates=gates)


def _cifar(row: str, shot: int, published: float) -> Target:
    """Make a target whose gate is what others measured, on as many tasks and queries as theirs."""
    tasks, gates = Tasks(5, shot, 15, 600), {TRANSDUCTIVE: published}
    return Target(
        row, "fomaml", "cifar-fs-best", tasks, 25, "cifar-fs", gates=gates, decisive_count=600
    )


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        *_paper("o15", (5, 1, 5), (0.9539, 0.950, 0.9768, 0.975), O5, (0.983, 0.987)),
        *_paper("o55", (5, 5, 5), (0.9890, 0.986, 0.9948, 0.994), f"{O5}-5shot", (0.992, 0.999)),
        *_paper("o120", (20, 1, 10), (0.8814, 0.878, 0.8943, 0.889), O20, (0.894, 0.958)),
        *_paper("o520", (20, 5, 10), (0.9665, 0.964, 0.9712, 0.965), O20, (0.979, 0.989)),
        *_paper("m15", (5, 1, 5), (0.4707, 0.460, 0.4997, 0.489), M5, (0.4807, 0.4870)),
        *_paper("m55", (5, 5, 15), (0.6274, 0.618, 0.6599, 0.654), f"{M5}-5shot", (0.6315, 0.6311)),
        _best("best15", 5, 1, PAPER_TASKS, {SUPPORT: 0.970, TRANSDUCTIVE: 0.985}),
        _best("best55", 5, 5, PAPER_TASKS, {}),
        _best("best120", 20, 1, 1000, {}),
        _best("best520", 20, 5, 1000, {}),
        # PaddleFSL's first-order MAML with the same network; docs/reproduction.md cites it.
        _cifar("cifar15", 1, 0.5706),
        _cifar("cifar55", 5, 0.7224),
    )
}
