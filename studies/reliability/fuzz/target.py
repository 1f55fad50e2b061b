"""What is fuzzed: a function of bytes that draws inputs and one that must survive them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Draw(Protocol):
    """Draws an input."""

    def __call__(self, chance: random.Random) -> bytes:
        """Return the bytes of one."""


@dataclass(frozen=True)
class Target:
    """Something that reads what others wrote.

    `run` returns whether an input came past parsing; it raises what is a fault. `modules` are those
    whose branches the inputs should cover. `seconds` of processor time are the most for one input.
    """

    draw: Draw
    run: Callable[[bytes], bool]
    modules: tuple[str, ...] = ()
    seconds: float = 5.0
