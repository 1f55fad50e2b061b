"""The bundles and the tasks whose choices and calibration are measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kshot.trainer.recipe.recipe import Data
from studies.common.evaluation import DIGITS, Tasks


@dataclass(frozen=True)
class Pair:
    """A built-in bundle and the tasks that it is measured on."""

    name: str
    bundle: str
    title: str
    tasks: Tasks


def _named(*pairs: Pair) -> Mapping[str, Pair]:
    return {pair.name: pair for pair in pairs}


# A sweep's task is dear: answers in `support_and_query` mode take a run for each query and example,
# and up to 170 variants adapt to every task by up to 50 steps.
SWEPT = _named(
    Pair("omniglot-1shot", "omniglot", "characters, 1 example", Tasks(5, 1, 3, 60)),
    Pair("omniglot-5shot", "omniglot", "characters, 5 examples", Tasks(5, 5, 3, 50)),
    Pair("omniglot-digits-5shot", "omniglot", "digits, 5 examples", Tasks(5, 5, 3, 50, DIGITS)),
    Pair("best-1shot", "omniglot-best", "characters, 1 example", Tasks(5, 1, 3, 100)),
    Pair("best-5shot", "omniglot-best", "characters, 5 examples", Tasks(5, 5, 3, 100)),
    Pair("best-digits-5shot", "omniglot-best", "digits, 5 examples", Tasks(5, 5, 3, 100, DIGITS)),
    Pair("omniglot-20way-1shot", "omniglot-20way", "20 classes, 1 example", Tasks(20, 1, 1, 50)),
    Pair("cifar-fs-1shot", "cifar-fs", "photographs, 1 example", Tasks(5, 1, 3, 100)),
    Pair("cifar-fs-5shot", "cifar-fs", "photographs, 5 examples", Tasks(5, 5, 2, 60)),
)


def _calibrated(bundle: str, way: int, shot: int, other: Data | None = None) -> Pair:
    """Make a pair of between 10,000 and 25,000 answers: fewer leave a point of ECE to chance."""
    size = (5, 1000) if way == 5 else (1, 500)
    on, title = ("digits-", f"`{bundle}` on digits") if other else ("", f"`{bundle}`")
    return Pair(f"{bundle}-{on}{shot}shot", bundle, title, Tasks(way, shot, *size, other))


CALIBRATED = _named(
    *(_calibrated("omniglot", 5, shot) for shot in (1, 2, 5)),
    _calibrated("omniglot", 5, 5, DIGITS),
    *(_calibrated("omniglot-best", 5, shot) for shot in (1, 2, 5)),
    _calibrated("omniglot-best", 5, 5, DIGITS),
    *(_calibrated("omniglot-20way", 20, shot) for shot in (1, 5)),
    *(_calibrated("cifar-fs", 5, shot) for shot in (1, 2, 3, 5)),
)
