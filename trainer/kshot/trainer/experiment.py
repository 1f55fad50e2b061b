"""An experiment as data: trainings that differ in little, and what their comparison should show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from kshot.bundle.document import DocumentError, Rule
from kshot.bundle.manifest import Count, Name, Natural, Positive, Text

__all__ = [
    "START",
    "ZERO",
    "Arm",
    "ArmTable",
    "Experiment",
    "FinalTasks",
    "Ordering",
    "Panel",
    "Sweep",
    "arms_of",
    "check_experiment",
]

# What orderings compare with beside the arms: what all start from, and the zero function.
START, ZERO = "start", "zero"


@dataclass(frozen=True)
class Sweep:
    """A key of the recipe and the values that it takes one after another."""

    key: Text
    values: Annotated[tuple[int | float, ...], Rule("at least one value", bool)]


@dataclass(frozen=True)
class ArmTable:
    """One line of a plot: settings over the experiment's recipe, written as for ``--set``.

    With ``sweep`` it is an arm for each value, named ``<name>-<value>``, else one arm.
    """

    name: Name
    title: Text
    set: tuple[Text, ...]
    sweep: Sweep | None = None


@dataclass(frozen=True)
class Panel:
    """One of the plots side by side.

    ``kind``: "curve" draws the scores along the trainings, "final" those at their ends, "sweep" the
    same over the values of the arms' sweeps, "steps" the errors over inner steps, and "waves" a
    wave, its support set, and its fits before and after.
    """

    kind: Literal["curve", "final", "sweep", "steps", "waves"]
    title: Text
    x_label: Text
    x_scale: Literal["linear", "log"]
    arms: Annotated[tuple[Name, ...], Rule("at least one arm", bool)]


@dataclass(frozen=True)
class Ordering:
    """A claim: ``factor * score(higher) - score(lower)`` is above ``least_difference``.

    It holds when the whole 95 % interval of the paired difference is. A ``least_difference`` below
    zero claims that ``higher`` is at most so much worse. Scores are accuracies in 0..1 or squared
    errors; ``lower`` and ``higher`` are arms, "start" or, of sine waves, "zero".
    """

    text: Text
    lower: Name
    higher: Name
    least_difference: float
    factor: Positive | None = None


@dataclass(frozen=True)
class FinalTasks:
    """The tasks on which all arms over images are compared; ``query_count`` is per class.

    They are of the data set's ``part``, which is test where it is left out; what is chosen by an
    experiment is better chosen by validation classes. So are those of the curves.
    """

    task_count: Annotated[int, Rule("an integer of at least 2", lambda value: value >= 2)]
    query_count: Count
    seed: Natural
    part: Literal["val", "test"] | None = None


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says beside its recipe; ``final`` is there for images alone."""

    name: Name
    title: Text
    description: Text
    arms: Annotated[tuple[ArmTable, ...], Rule("at least one arm", bool)]
    panels: Annotated[tuple[Panel, ...], Rule("at least one panel", bool)]
    orderings: tuple[Ordering, ...]
    final: FinalTasks | None = None


@dataclass(frozen=True)
class Arm:
    """One training of an experiment; ``line`` names its ``ArmTable``, ``key`` is its sweep's."""

    name: str
    title: str
    line: str
    overrides: tuple[str, ...]
    key: str | None = None


def arms_of(experiment: Experiment) -> tuple[Arm, ...]:
    """List the trainings, those of sweeps value by value."""
    arms: list[Arm] = []
    for table in experiment.arms:
        if table.sweep is None:
            arms.append(Arm(table.name, table.title, table.name, table.set))
            continue
        key = table.sweep.key
        for value in table.sweep.values:
            name = f"{table.name}-{value:g}".replace(".", "-")
            title = f"{table.title}, {key} {value:g}"
            overrides = (*table.set, f"{key}={value}")
            arms.append(Arm(name, title, table.name, overrides, key))
    return tuple(arms)


def check_experiment(experiment: Experiment) -> None:
    """Raise ``DocumentError`` unless arms are named once and all that is compared is there."""
    names = [arm.name for arm in arms_of(experiment)]
    for name in names:
        if names.count(name) > 1 or name in (START, ZERO):
            raise _mismatch("arms", f"two named {name}", "names of their own")
    lines = {table.name: table for table in experiment.arms}
    for index, panel in enumerate(experiment.panels):
        for line in panel.arms:
            if line not in lines:
                raise _mismatch(f"panels[{index}].arms", line, f"one of: {', '.join(lines)}")
            if (panel.kind == "sweep") != (lines[line].sweep is not None):
                wanted = "arms with a sweep" if panel.kind == "sweep" else "arms without one"
                raise _mismatch(f"panels[{index}].arms", line, wanted)
        if experiment.final is not None and panel.kind in ("steps", "waves"):
            raise _mismatch(f"panels[{index}].kind", panel.kind, "curve, final or sweep")
    for index, ordering in enumerate(experiment.orderings):
        for field in ("lower", "higher"):
            name = getattr(ordering, field)
            if name not in (*names, START, ZERO):
                raise _mismatch(
                    f"orderings[{index}].{field}", name, f"one of: {', '.join(names)}, {START}"
                )


def _mismatch(field: str, got: str, expected: str) -> DocumentError:
    return DocumentError(field, f"expected {expected}, got {got}")
