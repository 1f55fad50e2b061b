"""What `kshot doctor` finds: of one thing, how it is and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]
STATES: tuple[State, ...] = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """The state of a thing that was checked; `remedy` is empty where there is nothing to mend."""

    check: str
    state: State
    found: str
    remedy: str = ""


def worst(findings: list[Finding]) -> State:
    """Return the worst state of some findings."""
    return max((each.state for each in findings), key=STATES.index, default="ok")
