"""The settings of a head by ridge regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Count, Natural, Positive


@dataclass(frozen=True)
class FeatureBlock:
    """A run of neighbouring features, and the initial weight of its kernel against the others'."""

    size: Count
    weight: Positive


@dataclass(frozen=True)
class RidgeSettings:
    """The start of the settings of head `ridge`, and how far a support set moves them.

    `penalty` is that of ridge regression, `scale` turns its scores into logits. `step_count` steps
    of Adam at `learning_rate` move the logarithms of weights, penalty and scale; `pull`, divided by
    the number of examples, weighs their squared distance to the start.
    """

    blocks: Annotated[tuple[FeatureBlock, ...], Rule("at least one block", bool)]
    penalty: Positive
    scale: Positive
    step_count: Natural
    learning_rate: Positive
    pull: Annotated[float, Rule("a number of at least 0", lambda value: value >= 0)]
