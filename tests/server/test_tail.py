"""What of a tail fits into a time budget, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kshot.bundle import Head, Manifest, Scope, TailBlock, TailSpec
from kshot.server.engine_link.client import EngineResult
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.tail import (
    TailOutlook,
    TailPlan,
    TailReport,
    TailSpeed,
    _fold_sizes,
    look_ahead,
    may_adapt,
)

MakeModel = Callable[..., AdaptedModelRecord]

SPEED = TailSpeed(example_seconds=0.01, crop_seconds=0.005)
FIVE_SHOT = [index % 5 for index in range(25)]


def ahead(
    given: list[int],
    budget: float,
    spent: float = 0,
    remaining: float | None = None,
    *,
    deterministic: bool = False,
) -> TailOutlook:
    options: Any = SimpleNamespace(time_budget=budget, deterministic=deterministic)
    return look_ahead(given, SPEED, options, spent, remaining)


def classes(*counts: int) -> list[int]:
    return [index for index, count in enumerate(counts) for _ in range(count)]


def step(count: int) -> float:
    """Give the seconds of a step: 20 examples take 20 times those of one."""
    return 0.01 * (3 + 0.85 * count)


@pytest.mark.parametrize(
    ("counts", "budget", "plan", "seconds"),
    [
        # 20 steps, the outputs of 5 examples, and 20 crops.
        ((1, 1, 1, 1, 1), 1.6, TailPlan(20, 0, 4), 20 * step(5) + 0.05 + 0.1),
        ((1, 1, 1, 1, 1), 1.59, None, 1.6),
        ((9, 9, 1), 9.0, TailPlan(20, 0, 4), 20 * step(19) + 0.19 + 76 * 0.005),
        # 25 examples: two folds leave 10 out, one leaves 5.
        (
            (5,) * 5,
            11.54,
            TailPlan(20, 12, 2),
            20 * step(25) + 12 * (2 * step(15) + step(20)) + 0.25 + 0.25,
        ),
        ((5,) * 5, 11.52, TailPlan(20, 6, 2), 11.53),
        ((5,) * 5, 8.4, None, 11.53),
        # Two folds of half the examples.
        ((2,) * 5, 9.0, TailPlan(20, 12, 2), 20 * step(10) + 24 * step(5) + 0.1 + 0.1),
        ((2, 7), 9.0, TailPlan(20, 12, 2), 20 * step(9) + 12 * (step(4) + step(5)) + 0.18),
        # A step takes 32 examples at most.
        ((30, 30), 99.0, TailPlan(20, 12, 2), 56 * step(32) + 0.6 + 0.6),
    ],
)
def test_the_longest_plan_that_fits(
    counts: tuple[int, ...], budget: float, plan: TailPlan | None, seconds: float
) -> None:
    given = classes(*counts)
    outlook = ahead(given, budget + 1e-6)

    assert outlook.plan == plan
    assert seconds * 1.1 - 1e-6 <= outlook.needed_seconds <= seconds * 1.1 + 0.1
    if plan is not None and plan.fold_step_count != 6:
        assert plan.seconds(given, SPEED) == pytest.approx(seconds)


@pytest.mark.parametrize("counts", [(5,) * 5, (2,) * 5, (2, 7), (3, 4, 8), (30, 31)])
def test_the_planned_folds_are_the_learners(counts: tuple[int, ...]) -> None:
    import torch

    from kshot.learner.steps.tail_weight import folds

    given = classes(*counts)
    left_out = torch.bincount(folds(torch.tensor(given), len(counts))).tolist()

    assert _fold_sizes(given) == left_out


def test_what_is_spent_counts() -> None:
    outlook = ahead(FIVE_SHOT, 12.0, 1.0)

    assert outlook.plan == TailPlan(20, 6, 2)
    assert outlook.needed_seconds == pytest.approx(13.8)  # a tenth more than 12.5
    assert ahead(FIVE_SHOT, outlook.needed_seconds, 1.0).plan == TailPlan(20, 12, 2)


@pytest.mark.parametrize(
    ("remaining", "steps"),
    [(None, 12), (15.0, 12), (14.3, 6), (10.7, 6), (10.5, None), (0.2, None)],
)
def test_the_deadline_leaves_time_to_answer(remaining: float | None, steps: int | None) -> None:
    """A fifth of it, or three tenths of a second."""
    outlook = ahead(FIVE_SHOT, 600.0, 0.0, remaining)

    assert (outlook.plan and outlook.plan.fold_step_count) == steps
    assert outlook.limit == ("" if steps else "deadline")


@pytest.mark.parametrize(
    ("budget", "spent", "remaining", "steps"),
    [
        (11.54, 0.0, None, 12),
        (11.54, 9.0, None, 12),
        (11.52, 0.0, None, None),  # fewer steps would fit
        (600.0, 0.0, 14.3, None),
        (600.0, 0.0, 15.0, 12),
    ],
)
def test_a_deterministic_tail_takes_all_its_steps_or_none(
    budget: float, spent: float, remaining: float | None, steps: int | None
) -> None:
    """What this call has spent so far does not decide, and does not add to what is needed."""
    outlook = ahead(FIVE_SHOT, budget, spent, remaining, deterministic=True)

    assert (outlook.plan and outlook.plan.fold_step_count) == steps
    assert outlook.needed_seconds == pytest.approx(12.7)
    again = ahead(FIVE_SHOT, outlook.needed_seconds, spent, deterministic=True)
    assert again.plan == TailPlan(20, 12, 2)


def test_an_outlook_of_too_little_time_has_no_plan() -> None:
    late = TailOutlook(TailPlan(20, 12, 2), 9.0).too_late()

    assert late == TailOutlook(None, 9.0, "deadline")


def test_too_little_time_is_told() -> None:
    short = ahead(FIVE_SHOT, 2.0, 0.5, 30.0)
    late = ahead(FIVE_SHOT, 20.0, 0.5, 5.0)

    assert short.warning(2.0) == (
        "options.time_budget: a budget of 2 s is too short to adapt the encoder's tail, so the "
        "head alone adapted; all steps need 13.3 s"
    )
    assert "the deadline is too short" in late.warning(20.0)


def result(stop_reason: str = "COMPLETED", **parameters: list[float]) -> EngineResult:
    arrays = {name.replace("_", "."): np.array(row, np.float32) for name, row in parameters.items()}
    return EngineResult(arrays, {}, 0, stop_reason, (), 1.0, 0.1, "fake", 0)


@pytest.mark.parametrize(
    ("outlook", "given", "wanted"),
    [
        (TailOutlook(TailPlan(20, 12, 2), 9.0), result(tail_mix=[1, 0.5]), (0.5, 20, 12, 0.0)),
        (TailOutlook(TailPlan(20, 0, 4), 9.0), result(tail_mix=[0.8, 0.2]), (0.25, 20, 0, 0.0)),
        (TailOutlook(TailPlan(20, 6, 2), 9.0), result(), (0, 20, 6, 9.0)),
        (TailOutlook(TailPlan(20, 6, 2), 9.0), result("TIME_BUDGET"), (0, 0, 0, 9.0)),
        (
            TailOutlook(TailPlan(20, 6, 2), 9.0),
            replace(result(), tail_failed=True),
            (0, 0, 0, 9.0),
        ),
        (TailOutlook(None, 9.0, "deadline"), result(), (0, 0, 0, 9.0)),
        (TailOutlook(None, 9.0, "deadline"), None, (0, 0, 0, 9.0)),
    ],
)
def test_the_report(
    outlook: TailOutlook, given: EngineResult | None, wanted: tuple[float, int, int, float]
) -> None:
    report = TailReport.of(outlook, given)

    assert report.weight == pytest.approx(wanted[0])
    assert (report.step_count, report.fold_step_count, report.needed_seconds) == wanted[1:]


def test_a_plan_is_digested() -> None:
    assert TailOutlook(TailPlan(20, 12, 2), 9.0).digested() == {
        "tail": {"step_count": 20, "fold_step_count": 12, "crop_count": 2}
    }
    assert TailOutlook(None, 9.0).digested() == {}


@pytest.mark.parametrize(
    ("changed", "may"),
    [
        ({}, True),
        ({"scope": Scope.HEAD}, False),
        ({"scope": Scope.ALL}, False),
        ({"step_count": 1}, False),
        ({"head": Head.PROTOTYPE}, False),
    ],
)
def test_which_options_let_a_tail_adapt(
    manifest: Manifest, make_model: MakeModel, changed: dict[str, Any], may: bool
) -> None:
    adapts = {"scope": Scope.AUTO, "step_count": 0, "head": Head.RIDGE}
    options = replace(make_model().options, **{**adapts, **changed})
    tail = TailSpec((3, 4, 4), (TailBlock(2, 3, 1),), 8, 5e-4, 0.55, 3.0)

    assert may_adapt(replace(manifest, tail=tail), options) is may
    assert not may_adapt(manifest, options)
