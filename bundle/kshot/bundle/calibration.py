"""Temperatures that make a bundle's probabilities honest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from kshot.bundle.choices import BatchNormMode
from kshot.bundle.document import Rule
from kshot.bundle.field_types import Count, Natural, Positive, Temperature, Text, Way


@dataclass(frozen=True)
class TemperatureRule:
    """The temperature of a batch-norm mode for tasks of `shot` examples per class."""

    batch_norm_mode: BatchNormMode
    shot: Positive
    temperature: Temperature


@dataclass(frozen=True)
class Calibration:
    """The temperatures that divide logits before the softmax, and the tasks that fitted them.

    For each `shot` there were `task_count` tasks of `way` classes with `query_count` queries per
    class, drawn from `seed` out of `part` of the training's data, whose images have `data_digest`,
    and adapted by `step_count` steps and the bundle's other defaults.
    """

    rules: Annotated[tuple[TemperatureRule, ...], Rule("at least one rule", bool)]
    part: Text
    data_digest: Text
    way: Way
    task_count: Count
    query_count: Count
    step_count: Natural
    seed: Natural

    def temperature(self, mode: BatchNormMode, way: int, support_count: int) -> float:
        """Return the temperature of a task in `mode`; 1 where the mode has no rule.

        Between the `shot`s of the mode's rules its logarithm is linear in that of the examples per
        class, `support_count / way`; below the first and above the last it is theirs.
        """
        rules = [rule for rule in self.rules if rule.batch_norm_mode is mode]
        if not rules:
            return 1.0
        shot = support_count / way
        above = next((at for at, rule in enumerate(rules) if shot <= rule.shot), len(rules))
        if above in (0, len(rules)) or shot == rules[above].shot:
            return rules[min(above, len(rules) - 1)].temperature
        low, high = rules[above - 1], rules[above]
        start = math.log(low.shot)
        part = (math.log(shot) - start) / (math.log(high.shot) - start)
        return math.exp((1 - part) * math.log(low.temperature) + part * math.log(high.temperature))
