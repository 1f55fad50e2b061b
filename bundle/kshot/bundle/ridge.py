"""The settings of a head by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Count, Positive


@dataclass(frozen=True)
class RidgeRule:
    """The settings for tasks of up to `max_shot` examples per class.

    `penalty` is that of ridge regression in each block; `weights` are the blocks' before their
    evidence counts, which `evidence` multiplies; `scale` turns scores into logits.
    """

    max_shot: Count
    penalty: Positive
    evidence: Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]
    scale: Positive
    weights: tuple[Positive, ...]


@dataclass(frozen=True)
class RidgeSettings:
    """The sizes of neighbouring blocks of features, and rules by examples per class.

    The first rule that a task fits applies, or else the last.
    """

    block_sizes: Annotated[tuple[Count, ...], Rule("at least one block", bool)]
    rules: Annotated[tuple[RidgeRule, ...], Rule("at least one rule", bool)]

    def rule(self, way: int, support_count: int) -> RidgeRule:
        """Return the rule for a task, by its mean number of examples per class."""
        fitting = (rule for rule in self.rules if support_count <= rule.max_shot * way)
        return next(fitting, self.rules[-1])
