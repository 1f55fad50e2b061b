"""How far an encoder's tail may adapt in the time there is, and what became of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kshot.bundle import TAIL_EXAMPLES, TAIL_FOLDS, TAIL_MIX, Head, Manifest, Scope
from kshot.server.call_context import seconds_to_spare
from kshot.server.engine_link.client import EngineResult
from kshot.server.errors import DeviceMemoryFull, EngineUnavailable
from kshot.server.request.options import AdaptOptions

_STEPS = 20
_FOLD_STEPS = (12, 6)  # the fewer keep most of the gain
# The engine measures steps of 20 examples; what each step takes anyway is the time of three.
_MEASURED_EXAMPLES, _FIXED_EXAMPLES = 20, 3

# Callers are told a little more than the needed seconds: the same call may take longer next time.
_MARGIN = 1.1


NO_TAIL = (
    "options.time_budget: has no effect: only scope auto, with head ridge and no inner steps, "
    "adapts the tail of an encoder, where the model has one"
)


@dataclass(frozen=True)
class TailSpeed:
    """The seconds of a step of the tail for each example, and of the maps of one crop."""

    example_seconds: float
    crop_seconds: float


@dataclass(frozen=True)
class TailPlan:
    """The steps on the whole support set, those in each fold, and the crops of each picture."""

    step_count: int
    fold_step_count: int
    crop_count: int

    def seconds(self, classes: Sequence[int], speed: TailSpeed) -> float:
        """Return what it takes for examples of these classes `(n,)`.

        Class means, left-out answers and the accuracy take the tail's outputs of each example,
        a third of a step each.
        """
        count = len(classes)
        examples = count + self.step_count * _step_examples(count)
        if self.fold_step_count:
            rest = (count - left_out for left_out in _fold_sizes(classes))
            examples += self.fold_step_count * sum(map(_step_examples, rest))
        crops = self.crop_count * count
        return examples * speed.example_seconds + crops * speed.crop_seconds


@dataclass(frozen=True)
class TailOutlook:
    """The plan that fits, if any, where all steps would need a time budget of `needed_seconds`.

    `limit` names what is too short for any plan: the time budget, or the deadline.
    """

    plan: TailPlan | None
    needed_seconds: float
    limit: str = ""

    def digested(self) -> dict[str, Any]:
        """Return what decides an adapted model's bytes beside its options."""
        return {} if self.plan is None else {"tail": asdict(self.plan)}

    def too_late(self) -> TailOutlook:
        """Return the outlook after a deadline that came too near before the first step."""
        return replace(self, plan=None, limit="deadline")

    def warning(self, budget: float) -> str:
        """Return a sentence for a caller who asked for more than fits into his time budget."""
        limit = f"a budget of {budget:g} s" if self.limit == "time budget" else "the deadline"
        return (
            f"options.time_budget: {limit} is too short to adapt the encoder's tail, so the head "
            f"alone adapted; all steps need {self.needed_seconds:.1f} s"
        )


@dataclass(frozen=True)
class TailReport:
    """The weight of an adapted tail, 0 without one, and the steps that were taken.

    `needed_seconds` is the time budget that all steps would need, 0 where all were taken.
    """

    weight: float
    step_count: int
    fold_step_count: int
    needed_seconds: float

    @staticmethod
    def of(outlook: TailOutlook, result: EngineResult | None = None) -> TailReport:
        """Tell what became of a plan; without a result, or when the time ran out, no step."""
        plan = outlook.plan
        if plan is None or result is None or not took_all(result):
            return TailReport(0, 0, 0, outlook.needed_seconds)
        mix = result.parameters.get(TAIL_MIX, (1, 0))
        weight = float(f"{float(mix[1] / mix[0]):.6g}")
        complete = plan.fold_step_count in (0, max(_FOLD_STEPS))
        needed = 0.0 if complete else outlook.needed_seconds
        return TailReport(weight, plan.step_count, plan.fold_step_count, needed)


def took_all(result: EngineResult) -> bool:
    """Tell whether a planned tail took its steps, so that the plan decides the model's bytes."""
    return result.stop_reason == "COMPLETED" and not result.tail_failed


def unfinished(error: Exception | None = None, *, failed: bool = False) -> str:
    """Return a sentence on what ended a tail's adaptation: an error, or else the deadline.

    `failed` tells of a step that failed in the engine, whose log says why.
    """
    field, ending, remedy = "time_budget", "the deadline came", "allow more time"
    if failed:
        field, ending, remedy = "scope", "a step failed", "the engine's log says why"
    elif isinstance(error, EngineUnavailable):
        field, ending, remedy = "scope", "the engine stopped", "adapt again"
    elif isinstance(error, DeviceMemoryFull):
        field, ending, remedy = "scope", "the device's memory was full", "adapt again later"
    return (
        f"options.{field}: {ending} before the encoder's tail had adapted, so the head alone did; "
        f"{remedy}"
    )


def may_adapt(manifest: Manifest, options: AdaptOptions) -> bool:
    """Tell whether these options let a model's tail adapt, in time."""
    ridge = options.head is Head.RIDGE and options.step_count == 0
    return options.scope is Scope.AUTO and ridge and manifest.tail is not None


def plans_of(classes: Sequence[int]) -> list[TailPlan]:
    """Return the plans for examples of these classes `(n,)`, the longest first.

    Folds decide the weight where each class has two examples or more.
    """
    if min(Counter(classes).values()) < 2:
        return [TailPlan(_STEPS, 0, crop_count=4)]
    return [TailPlan(_STEPS, steps, crop_count=2) for steps in _FOLD_STEPS]


def look_ahead(
    classes: Sequence[int],
    speed: TailSpeed,
    options: AdaptOptions,
    spent: float,
    remaining: float | None,
) -> TailOutlook:
    """Plan for examples of classes `(n,)`; times in seconds.

    Of the time budget, `spent` is over. `remaining` is until the deadline, None without one. With
    `deterministic` the tail takes all its steps or none, and what is over does not count.
    """
    plans = plans_of(classes)
    if options.deterministic:
        plans, spent = plans[:1], 0.0
    left = options.time_budget - spent
    until_deadline = seconds_to_spare(remaining)
    seconds = [plan.seconds(classes, speed) for plan in plans]
    needed = math.ceil(10 * _MARGIN * (spent + seconds[0])) / 10
    for plan, each in zip(plans, seconds, strict=True):
        if each <= left and (until_deadline is None or each <= until_deadline):
            return TailOutlook(plan, needed)
    return TailOutlook(None, needed, "time budget" if left < seconds[-1] else "deadline")


def _fold_sizes(classes: Sequence[int]) -> list[int]:
    """Return how many examples each fold leaves out: of each class, every second or third."""
    counts = Counter(classes).values()
    folds = min(TAIL_FOLDS, min(counts))
    return [sum((count - fold + folds - 1) // folds for count in counts) for fold in range(folds)]


def _step_examples(count: int) -> float:
    """Return how many examples' share of a measured step one of `count` examples takes."""
    share = 1 - _FIXED_EXAMPLES / _MEASURED_EXAMPLES
    return _FIXED_EXAMPLES + share * min(count, TAIL_EXAMPLES)
