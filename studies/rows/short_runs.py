"""How short a training of each recipe may be to show that it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# MAML's code has 16 or 32 tasks in a meta-batch, 4 for mini-ImageNet. A short run gets further with
# fewer.
_FOUR = ("outer.meta_batch_size=4",)
_ONE = ("outer.meta_batch_size=1",)


@dataclass(frozen=True)
class ShortRun:
    """How a recipe is cut short, and the test tasks on which its start and its end are compared.

    `settings` are further values for `--set`. `query_count` is per class; `step_count` is that of
    both adaptations, None the bundle's own. Sine waves have tasks of their own.
    """

    recipe: str
    meta_iterations: int
    settings: tuple[str, ...] = ()
    task_count: int = 600
    query_count: int = 5
    step_count: int | None = None


def _mini_imagenet(
    training: str, meta_iterations: int, settings: tuple[str, ...] = (), step_count: int = 2
) -> ShortRun:
    """Compare on fewer tasks: each takes ten times as long as a task of Omniglot."""
    recipe = f"mini-imagenet-5way{training}"
    return ShortRun(recipe, meta_iterations, settings, 200, query_count=3, step_count=step_count)


# A few steps of the comparison's adaptations are enough to tell, and most of what a run costs.
SHORT_RUNS: Mapping[str, ShortRun] = {
    run.recipe: run
    for run in (
        ShortRun("omniglot-5way", 60, step_count=3),
        ShortRun("omniglot-best", 60),
        ShortRun("omniglot-5way-fomaml", 150, _FOUR),
        ShortRun("omniglot-5way-maml", 100, _FOUR),
        ShortRun("sine", 2000),
        ShortRun("omniglot-5way-5shot-fomaml", 60, _FOUR),
        ShortRun("omniglot-5way-5shot-maml", 40, _FOUR, step_count=1),
        ShortRun("omniglot-5way-fresh", 60, step_count=3),
        ShortRun("omniglot-5way-sgd", 60, step_count=3),
        ShortRun("omniglot-5way-joint", 60, step_count=3),
        ShortRun("omniglot-pretraining", 150, step_count=3),
        ShortRun("cifar-fs-5way", 20, query_count=3, step_count=2),
        ShortRun("cifar-fs-best", 400, query_count=3),
        ShortRun("omniglot-20way", 15, query_count=1, step_count=3),
        ShortRun("omniglot-20way-fomaml", 200, _FOUR, query_count=1, step_count=1),
        ShortRun("omniglot-20way-maml", 20, _FOUR, query_count=1, step_count=1),
        _mini_imagenet("", 8),
        _mini_imagenet("-fomaml", 60),
        _mini_imagenet("-maml", 10),
        _mini_imagenet("-5shot-fomaml", 60, _ONE, 5),
        _mini_imagenet("-5shot-maml", 40, _ONE, 5),
    )
}
