"""What a sweep's document says: its rows, the bundle's defaults among them, and single changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from kshot.bench.choosing_run import Document

__all__ = ["Choice", "Measured", "Sweep", "check_sweep", "choice_words"]

# What the page and the pictures tell of a sweep beside its rows.
COUNTS = ("tasks", "way", "shot", "queries_per_task")
WORDS = ("bundle", "data", "command", "device")


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
    """A row: accuracies and their intervals in 0..1, ``nll`` in nats, milliseconds of a task.

    ``difference`` is to the bundle's defaults, with its half width; None for these.
    """

    choice: Choice
    accuracy: float
    ci95: float
    ece: float
    nll: float
    ms_per_task: float
    difference: tuple[float, float] | None


@dataclass(frozen=True)
class Sweep:
    """The rows of a document by their choices."""

    rows: Mapping[Choice, Measured]
    defaults: Choice

    @staticmethod
    def of(document: Document) -> Sweep:
        """Read a document that was measured."""
        columns = cast(Sequence[str], document["columns"])
        rows = cast(Sequence[Sequence[object]], document["rows"])
        listed = [_measured(dict(zip(columns, row, strict=True))) for row in rows]
        defaults = Choice(**cast(dict[str, Any], document["defaults"]))
        return Sweep({row.choice: row for row in listed}, defaults)

    def as_served(self) -> Measured:
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
        """Return the rows of a choice at every number of steps, growing."""
        rows = (
            row
            for of, row in self.rows.items()
            if replace(of, step_count=choice.step_count) == choice
        )
        return sorted(rows, key=lambda row: row.choice.step_count)

    def baselines(self, mode: str) -> list[Measured]:
        """Return the rows that adapt nothing, in a mode."""
        return [
            row
            for choice, row in self.rows.items()
            if choice.baseline is not None and choice.batch_norm_mode == mode
        ]

    def best(self) -> Measured:
        """Return the most accurate row of the default mode; of equals the defaults or quickest."""
        mode = self.defaults.batch_norm_mode
        of_mode = [row for of, row in self.rows.items() if of.batch_norm_mode == mode]
        return max(
            of_mode,
            key=lambda row: (row.accuracy, row.choice == self.defaults, -row.ms_per_task),
        )


def check_sweep(document: Document) -> None:
    """Raise ``ValueError``, ``TypeError`` or ``LookupError`` for what is no whole sweep."""
    for keys, kind in ((COUNTS, int), (WORDS, str), (("environment",), Mapping)):
        for key in keys:
            if not isinstance(document[key], kind):
                raise TypeError(f"{key} is {document[key]!r}")
    if "gpu" not in cast(Mapping[str, object], document["environment"]):
        raise LookupError("environment has no gpu")
    Sweep.of(document).as_served()


def choice_words(choice: Choice, defaults: Choice) -> str:
    """Say what a choice has that the defaults have not."""
    if choice.baseline is not None:
        return f"`{choice.baseline}`"
    said = [
        f"{name} `{getattr(choice, field)}`"
        for field, name in (
            ("batch_norm_mode", "mode"),
            ("preconditioner", "preconditioner"),
            ("head", "head"),
            ("scope", "scope"),
        )
        if getattr(choice, field) != getattr(defaults, field)
    ]
    if choice.step_count != defaults.step_count:
        said.append(f"{choice.step_count} step{'' if choice.step_count == 1 else 's'}")
    return ", ".join(said) or "the defaults"


def _measured(row: Mapping[str, object]) -> Measured:
    # A document is our own, of these types; float() refuses what is no number.
    chosen: dict[str, Any] = {name: row[name] for name in Choice.__dataclass_fields__}
    found = cast(Mapping[str, float], row)
    difference = None
    if row["difference"] is not None:
        difference = (float(found["difference"]), float(found["difference_ci95"]))
    return Measured(
        Choice(**chosen),
        float(found["accuracy"]),
        float(found["ci95"]),
        float(found["ece"]),
        float(found["nll"]),
        float(found["ms_per_task"]),
        difference,
    )
