"""What a figure's run found: arms with intervals, and claims about paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.statistics import Interval
from studies.common.results import Provenance, Result
from studies.figures.figure import START, ZERO, Claim, Figure
from studies.figures.run import Outcome, RunSettings
from studies.figures.scores import mean_score

__all__ = ["figure_result", "orderings"]


def figure_result(
    figure: Figure, settings: RunSettings, outcomes: Sequence[Outcome], made_with: Provenance
) -> Result:
    """Lay out a run's arms, a row each, with curves and claims beside them."""
    return Result(
        "figures",
        figure.name,
        made_with,
        settings={
            "scale": settings.scale,
            "step_scale": settings.step_scale,
            "overrides": list(settings.overrides),
            "arms": list(settings.arms),
            "device": settings.device.type,
        },
        rows=[_row(outcome) for outcome in outcomes],
        more={
            "title": figure.title,
            "queries_per_task": outcomes[0].runs[0].scores.query_count,
            "curves": {
                outcome.arm.name: [
                    {"seed": run.seed, "points": list(run.curve)} for run in outcome.runs
                ]
                for outcome in outcomes
            },
            "orderings": orderings(figure, outcomes),
        },
    )


def orderings(figure: Figure, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Judge the claims whose arms were run, on the tasks that all arms share.

    Each claim has what was `found` by each compared score: the paired difference `factor * higher -
    lower` with its interval, for the seeds together and alone, and whether the claim `holds`.
    """
    runs = {outcome.arm.name: [run.scores for run in outcome.runs] for outcome in outcomes}
    runs[ZERO] = runs[START]

    def task_scores(name: str, measured: str) -> npt.NDArray[np.float64]:
        key = ZERO if name == ZERO else measured
        return np.array([run.scores[key] for run in runs[name]])  # (seeds, tasks)

    return [
        {
            **asdict(claim),
            "found": {
                measured: _found(
                    claim,
                    claim.factor * task_scores(claim.higher, measured),
                    task_scores(claim.lower, measured),
                )
                for measured in runs[START][0].compared
            },
        }
        for claim in figure.claims
        if {claim.lower, claim.higher} <= runs.keys()
    ]


def _found(
    claim: Claim, high: npt.NDArray[np.float64], low: npt.NDArray[np.float64]
) -> dict[str, Any]:
    by_seed = [
        paired_difference(left.tolist(), right.tolist())
        for left, right in zip(high, low, strict=True)
    ]
    together = paired_difference(high.mean(axis=0).tolist(), low.mean(axis=0).tolist())
    return {**_judged(claim, together), "by_seed": [_judged(claim, seed) for seed in by_seed]}


def _judged(claim: Claim, difference: Interval) -> dict[str, Any]:
    above = difference.mean - difference.half_width > claim.least_difference
    return {"holds": above, **_interval(difference)}


def _row(outcome: Outcome) -> dict[str, Any]:
    runs = [run.scores for run in outcome.runs]
    outer = outcome.recipe.outer
    return {
        "name": outcome.arm.name,
        "title": outcome.arm.title,
        "line": outcome.arm.line,
        "set": list(outcome.arm.settings),
        "value": outcome.value,
        "recipe_digest": recipe_digest(outcome.recipe),
        "meta_iterations": outer.meta_iterations if outcome.arm.name != START else 0,
        "meta_step_size": outer.meta_step_size,
        "task_count": len(next(iter(runs[0].scores.values()))),
        "scores": {
            measured: {
                **_interval(mean_score(runs, measured)),
                "by_seed": [_number(mean_score([run], measured).mean) for run in runs],
            }
            for measured in runs[0].scores
        },
    }


def _interval(interval: Interval) -> dict[str, Any]:
    mean, half_width = _number(interval.mean), _number(interval.half_width)
    return {"mean": mean, "ci95": half_width, "ci_method": interval.method}


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no word for one that is not finite."""
    return value if math.isfinite(value) else None
