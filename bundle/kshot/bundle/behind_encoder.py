"""What adapts behind an encoder: a head by ridge regression, and the last layers of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from kshot.bundle.document import Rule
from kshot.bundle.field_types import Count, Fraction, Positive


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


TAIL_CLASSES, TAIL_MIX = "tail.classes", "tail.mix"
"""Parameters of an adapted tail beside its weights: rows `(way, feature_count)`, and `(2,)`."""

TAIL_FOLDS, TAIL_EXAMPLES = 3, 32
"""The most folds that decide the weight of a tail, and the most examples of one of its steps."""


@dataclass(frozen=True)
class TailBlock:
    """An inverted residual: `expansion` times the channels, depthwise 3 x 3, `channels`.

    With stride 1 and as many channels as before, the input is added.
    """

    expansion: Count
    channels: Count
    stride: Count


@dataclass(frozen=True)
class TailSpec:
    """The network in `tail.safetensors`, and the settings of its adaptation.

    Its inputs, maps of an inner layer, are the last `prod(map_shape)` numbers of what the encoder
    gives; the numbers before are features for the head. Behind the blocks comes a convolution to
    `feature_count` channels, whose means over the sides are the features.

    `likeness` and `slope` give the tail's weight before left-out examples count: `slope` times
    what the mean cosine of pictures of different classes has above `likeness`.
    """

    map_shape: tuple[Count, Count, Count]
    blocks: Annotated[tuple[TailBlock, ...], Rule("at least one block", bool)]
    feature_count: Count
    learning_rate: Positive
    likeness: Fraction
    slope: Positive

    @property
    def map_size(self) -> int:
        """Return how many numbers the maps have."""
        return math.prod(self.map_shape)
