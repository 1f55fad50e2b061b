"""What the studies measure, as data: a row for each table of `studies/rows/STUDY.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from kshot.bundle import BatchNormMode, Provenance
from kshot.bundle.document import parse
from kshot.trainer.recipe.files import load_image_recipe
from kshot.trainer.recipe.recipe import Data

ROWS = Path(__file__).parents[1] / "rows"
# The bundles that ship with the package.
BUILTIN = ("omniglot", "omniglot-20way", "omniglot-best", "cifar-fs")
Kind = TypeVar("Kind")
Fractions = Mapping[BatchNormMode, float]


@dataclass(frozen=True)
class Tasks:
    """Tasks of a bundle's own test classes, or of `other` data; `query_count` is per class."""

    way: int
    shot: int
    query_count: int
    task_count: int
    other: Data | None = None


@dataclass(frozen=True)
class Pair:
    """A built-in bundle and the tasks that its choices or its calibration are measured on."""

    name: str
    bundle: str
    title: str
    tasks: Tasks


@dataclass(frozen=True)
class Target:
    """One adaptation of the same tasks, answered in each batch-norm mode.

    A bundle of `recipe` answers it; with `any_training` another one on its data does, too.
    `published` and `gates` are accuracies in 0..1; a mode is reproduced if it reaches its gate on
    `decisive_count` tasks. `batch_size` is the paper's, for Reptile. The name, for `--only`, is
    that of the row and, but for Reptile, the algorithm: `o15`, `o15-fomaml`.
    """

    name: str
    recipe: str
    tasks: Tasks
    any_training: bool
    modes: tuple[BatchNormMode, ...]
    published: Fractions
    gates: Fractions
    decisive_count: int
    batch_size: int | None = None

    @property
    def row(self) -> str:
        """Return the row of the paper's table."""
        return self.name.partition("-")[0]

    @property
    def algorithm(self) -> str:
        """Return the algorithm of the training."""
        return self.name.partition("-")[2] or "reptile"

    def answered_by(self, provenance: Provenance) -> bool:
        """Tell whether a bundle of this origin answers the row."""
        data = load_image_recipe(self.recipe).data
        trained = (provenance.recipe, provenance.algorithm) == (self.recipe, self.algorithm)
        same_data = (provenance.dataset, provenance.split) == (data.dataset, data.split)
        return same_data and (trained or self.any_training)


@dataclass(frozen=True)
class ShortRun:
    """How a recipe is cut short, and the test tasks on which its start and its end are compared.

    `settings` are further values for `--set`. `query_count` is per class; `step_count` is that of
    both adaptations, None the bundle's own. Sine waves have tasks of their own.
    """

    recipe: str
    meta_iterations: int
    settings: tuple[str, ...]
    task_count: int
    query_count: int
    step_count: int | None = None


def read_rows(study: str, kind: type[Kind]) -> Mapping[str, Kind]:
    """Read the rows of a study by their names, each the first field of its `kind`."""
    document = tomllib.loads((ROWS / f"{study}.toml").read_text())
    name_field = fields(kind)[0].name  # type: ignore[arg-type]  # a dataclass
    return {name: parse(kind, {name_field: name, **row}) for name, row in document.items()}


SWEPT = read_rows("choosing", Pair)
CALIBRATED = read_rows("calibration", Pair)
TARGETS = read_rows("reproduction", Target)
SHORT_RUNS = read_rows("short_recipes", ShortRun)
