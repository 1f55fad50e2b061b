"""What a figure's script says: its arms, panels and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe

# What a claim may name beside an arm: the untrained network, and the zero function.
START, ZERO = "start", "zero"


@dataclass(frozen=True)
class Arm:
    """One training: `changes` of the figure's recipe, by key.

    `line` names the plotted line and `label` its entry in the legend. `key` is the swept key of an
    arm that is one point of a line.
    """

    name: str
    title: str
    line: str
    label: str
    changes: Mapping[str, object]
    key: str | None = None

    @property
    def settings(self) -> list[str]:
        """Return the changes, each as for `--set`."""
        return [f"{key}={value}" for key, value in self.changes.items()]


@dataclass(frozen=True)
class Claim:
    """A claim that `factor * score(higher) - score(lower)` is above `least_difference`.

    Scores are accuracies in 0..1 or squared errors. The claim holds when the whole 95 % interval of
    the paired difference is above. A negative `least_difference` allows `higher` to be that much
    worse.
    """

    text: str
    lower: str
    higher: str
    least_difference: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One of the plots side by side, and the lines in it."""

    draw: Callable[[Any], None]  # of a `Drawing`
    title: str
    x_label: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """Trainings that differ in few settings and what their comparison should show.

    The recipe that the arms change is `NAME.toml` beside the script. Arms over images are compared
    on `task_count` tasks, with `query_count` queries per class, of the data set's `part`; so are
    their learning curves. Of sine waves `part` is empty: the recipe says what is compared.
    """

    name: str
    title: str
    arms: Sequence[Arm] = ()
    panels: Sequence[Panel] = ()
    claims: Sequence[Claim] = ()
    part: str = "test"
    task_count: int = 1000
    query_count: int = 5

    def recipe(self, arm: Arm, overrides: Sequence[str] = ()) -> AnyRecipe:
        """Return an arm's recipe with further settings over it; raises `RecipeError`."""
        base = Path(__file__).with_name(f"{self.name}.toml")
        named = f"name={self.name}-{arm.name}", f"description={self.title}: {arm.title}"
        return load_recipe(str(base), [*named, *arm.settings, *overrides])


def arm(name: str, title: str, changes: Mapping[str, object]) -> Arm:
    """Make an arm that is a line of its own."""
    return Arm(name, title, name, title, changes)
