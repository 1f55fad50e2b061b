"""A sweep over the choices of an adaptation, as its result holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from studies.common.results import Result


@dataclass(frozen=True)
class Choice:
    """How a task is adapted to and answered; a baseline has only a mode and its steps."""

    batch_norm_mode: str
    preconditioner: str | None
    head: str | None
    scope: str | None
    step_count: int
    baseline: str | None = None


@dataclass(frozen=True)
class Measured:
    """A row: fractions in 0..1, `nll` in nats, milliseconds per task.

    `difference` is the paired difference to the bundle's defaults, None for these.
    """

    choice: Choice
    accuracy: float
    ci95: float
    ece: float
    nll: float
    ms_per_task: float
    difference: float | None
    difference_ci95: float | None


@dataclass(frozen=True)
class Sweep:
    """The rows of a result by their choices, and the bundle's defaults."""

    rows: Mapping[Choice, Measured]
    defaults: Choice

    @staticmethod
    def of(result: Result) -> Sweep:
        """Read a result."""
        rows = {}
        for row in result.rows:
            choice = Choice(**{name: row[name] for name in Choice.__dataclass_fields__})
            found = {name: row[name] for name in row if name in Measured.__dataclass_fields__}
            rows[choice] = Measured(choice, **found)
        of, inner = result.settings, result.settings["inner_loop"]
        mode, head, scope = (of[name]["default"] for name in ("batch_norm", "head", "scope"))
        defaults = Choice(mode, inner["preconditioner"], head, scope, inner["step_count"])
        return Sweep(rows, defaults)

    @property
    def served(self) -> Measured:
        """Return the row of the bundle's defaults."""
        return self.rows[self.defaults]

    def changed(self, axis: str) -> list[Measured]:
        """Return the rows that differ from the defaults in one field of `Choice` alone."""
        return [
            row
            for choice, row in self.rows.items()
            if choice != self.defaults
            and replace(choice, **{axis: getattr(self.defaults, axis)}) == self.defaults
        ]

    def along_steps(self, choice: Choice) -> list[Measured]:
        """Return the rows of a choice by growing numbers of steps."""
        rows = (
            self.rows[of] for of in self.rows if replace(choice, step_count=of.step_count) == of
        )
        return sorted(rows, key=lambda row: row.choice.step_count)

    def baselines(self, mode: str) -> list[Measured]:
        """Return the rows that adapt nothing, in a mode."""
        rows = self.rows.values()
        return [of for of in rows if of.choice.baseline and of.choice.batch_norm_mode == mode]

    def best(self) -> Measured:
        """Return the most accurate row of the default mode; of equals the defaults or quickest."""
        mode = self.defaults.batch_norm_mode
        return max(
            (row for row in self.rows.values() if row.choice.batch_norm_mode == mode),
            key=lambda row: (row.accuracy, row.choice == self.defaults, -row.ms_per_task),
        )


def choice_words(choice: Choice, defaults: Choice) -> str:
    """Name what differs from the defaults."""
    if choice.baseline is not None:
        return f"`{choice.baseline}`"
    said = [
        f"{axis.removeprefix('batch_norm_')} `{getattr(choice, axis)}`"
        for axis in ("batch_norm_mode", "preconditioner", "head", "scope")
        if getattr(choice, axis) != getattr(defaults, axis)
    ]
    if choice.step_count != defaults.step_count:
        said.append(f"{choice.step_count} step{'' if choice.step_count == 1 else 's'}")
    return ", ".join(said) or "the defaults"
