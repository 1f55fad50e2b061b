"""What a figure's script says: its arms, panels and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.parsing import AnyRecipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from studies.figures.panels import PanelData

__all__ = ["START", "ZERO", "Arm", "Claim", "Figure", "Panel", "arm", "sweep"]

# What a claim may name beside an arm: the untrained network, and the zero function.
START, ZERO = "start", "zero"


@dataclass(frozen=True)
class Arm:
    """One training: `settings` over the figure's recipe, each `key=value` as for `--set`.

    `line` names the plotted line and `label` its entry in the legend. `key` is the swept key of an
    arm that is one point of a line.
    """

    name: str
    title: str
    line: str
    label: str
    settings: tuple[str, ...] = ()
    key: str | None = None


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

    draw: Callable[[Axes, PanelData], None]
    title: str
    x_label: str
    lines: Sequence[str]
    x_scale: str = "linear"


@dataclass(frozen=True)
class Figure:
    """Trainings that differ in few settings and what their comparison should show.

    The recipe that the arms change is `NAME.toml` beside the script. Arms over images are compared
    on `task_count` tasks, with `query_count` queries per class, of the data set's `part`; so are
    their learning curves. Of sine waves these are empty: the recipe says what is compared.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...]
    part: str = ""
    task_count: int = 0
    query_count: int = 0

    def recipe(self, arm: Arm, overrides: Sequence[str] = ()) -> AnyRecipe:
        """Return an arm's recipe with further settings over it; raises `RecipeError`."""
        base = Path(__file__).with_name(f"{self.name}.toml")
        named = f"name={self.name}-{arm.name}", f"description={self.title}: {arm.title}"
        return load_recipe(str(base), [*named, *arm.settings, *overrides])


def arm(name: str, title: str, changes: Mapping[str, object]) -> Arm:
    """Make an arm that is a line of its own."""
    return Arm(name, title, name, title, _settings(changes))


def sweep(
    line: str, label: str, changes: Mapping[str, object], key: str, values: Sequence[float]
) -> list[Arm]:
    """Make the arms of one line, one for each value of a key."""
    made = []
    for value in values:
        name = f"{line}-{value:g}".replace(".", "-")
        settings = _settings({**changes, key: value})
        made.append(Arm(name, f"{label}, {key} {value:g}", line, label, settings, key))
    return made


def _settings(changes: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in changes.items())
