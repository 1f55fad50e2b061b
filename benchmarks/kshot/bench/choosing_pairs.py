"""The bundles and data that choices of adaptation are compared on."""

from __future__ import annotations

from dataclasses import dataclass

from kshot.trainer.recipe.recipe import Data

__all__ = ["PAIRS", "Pair"]

DIGITS = Data("digits", "all", rotations=False)


@dataclass(frozen=True)
class Pair:
    """A built-in bundle and tasks of ``way`` classes, of its own test classes or of other data.

    ``query_count`` is per class. Where it or ``task_count`` is small, a task is dear: answers in
    `support_and_query` mode take a run for each query and example, and there are up to 170 rows,
    for which every task is adapted to up to 50 steps.
    """

    name: str
    bundle: str
    title: str
    way: int
    shot: int
    task_count: int
    query_count: int
    other: Data | None = None


PAIRS = (
    Pair("omniglot-1shot", "omniglot", "characters, 1 example of each class", 5, 1, 60, 3),
    Pair("omniglot-5shot", "omniglot", "characters, 5 examples", 5, 5, 50, 3),
    Pair("omniglot-digits-5shot", "omniglot", "another domain: digits", 5, 5, 50, 3, DIGITS),
    Pair("best-1shot", "omniglot-best", "characters by omniglot-best, 1 example", 5, 1, 100, 3),
    Pair("best-5shot", "omniglot-best", "characters by omniglot-best, 5 examples", 5, 5, 100, 3),
    Pair("best-digits-5shot", "omniglot-best", "digits by omniglot-best", 5, 5, 100, 3, DIGITS),
    Pair("omniglot-20way-1shot", "omniglot-20way", "20 classes of characters", 20, 1, 50, 1),
    Pair("cifar-fs-1shot", "cifar-fs", "photographs, 1 example", 5, 1, 100, 3),
    Pair("cifar-fs-5shot", "cifar-fs", "photographs, 5 examples", 5, 5, 60, 2),
)
