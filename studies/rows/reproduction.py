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

TRANSDUCTIVE, PLAIN, SUPPORT = (
    BatchNormMode.TRANSDUCTIVE,
    BatchNormMode.SUPPORT_AND_QUERY,
    BatchNormMode.SUPPORT,
)
# With one query of each class.
PAPER_TASKS = 10_000
Fractions = Mapping[BatchNormMode, float]
O5, O20, M5 = "omniglot-5way", "omniglot-20way", "mini-imagenet-5way"
# The bundles that ship with the package.
BUILTIN = ("omniglot", "omniglot-20way", "omniglot-best", "cifar-fs")


@dataclass(frozen=True)
class Target:
    """One adaptation of the same tasks, answered in each batch-norm mode.

    A bundle of `recipe` answers it; with `any_training` another one on its data does, too.
    `published` and `gates` are accuracies in 0..1; a mode is reproduced if it reaches its gate on
    `decisive_count` tasks. `batch_size` is the paper's, for Reptile.
    """

    row: str
    algorithm: str
    recipe: str
    tasks: Tasks
    batch_size: int
    any_training: bool = False
    modes: tuple[BatchNormMode, ...] = (TRANSDUCTIVE, PLAIN, SUPPORT)
    published: Fractions = field(default_factory=dict)
    gates: Fractions = field(default_factory=dict)
    decisive_count: int = PAPER_TASKS

    @property
    def name(self) -> str:
        """Return the name for `--only`: `o15`, or `o15-fomaml`."""
        return self.row if self.algorithm == "reptile" else f"{self.row}-{self.algorithm}"

    def answered_by(self, provenance: Provenance) -> bool:
        """Tell whether a bundle of this origin answers the row."""
        data = load_image_recipe(self.recipe).data
        trained = (provenance.recipe, provenance.algorithm) == (self.recipe, self.algorithm)
        same_data = (provenance.dataset, provenance.split) == (data.dataset, data.split)
        return same_data and (trained or self.any_training)


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


def _best(row: str, way: int, shot: int, task_count: int, **gates: float) -> Target:
    """Make a target of `omniglot-best`; the gates, by mode, are what it was to reach."""
    tasks, by_mode = Tasks(way, shot, 1, task_count), {BatchNormMode(of): gates[of] for of in gates}
    return Target(row, "fomaml", "omniglot-best", tasks, 5, gates=by_mode)


def _cifar(row: str, shot: int, published: float) -> Target:
    """Make a target whose gate is what others measured, on as many tasks and queries as theirs."""
    tasks, gates = Tasks(5, shot, 15, 600), {TRANSDUCTIVE: published}
    made = Target(row, "fomaml", "cifar-fs-best", tasks, 25, any_training=True, gates=gates)
    return replace(made, decisive_count=tasks.task_count)


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        *_paper("o15", (5, 1, 5), (0.9539, 0.950, 0.9768, 0.975), O5, (0.983, 0.987)),
        *_paper("o55", (5, 5, 5), (0.9890, 0.986, 0.9948, 0.994), f"{O5}-5shot", (0.992, 0.999)),
        *_paper("o120", (20, 1, 10), (0.8814, 0.878, 0.8943, 0.889), O20, (0.894, 0.958)),
        *_paper("o520", (20, 5, 10), (0.9665, 0.964, 0.9712, 0.965), O20, (0.979, 0.989)),
        *_paper("m15", (5, 1, 5), (0.4707, 0.460, 0.4997, 0.489), M5, (0.4807, 0.4870)),
        *_paper("m55", (5, 5, 15), (0.6274, 0.618, 0.6599, 0.654), f"{M5}-5shot", (0.6315, 0.6311)),
        _best("best15", 5, 1, PAPER_TASKS, support=0.970, transductive=0.985),
        _best("best55", 5, 5, PAPER_TASKS),
        _best("best120", 20, 1, 1000),
        _best("best520", 20, 5, 1000),
        # PaddleFSL's first-order MAML with the same network; docs/reproduction.md cites it.
        _cifar("cifar15", 1, 0.5706),
        _cifar("cifar55", 5, 0.7224),
    )
}
