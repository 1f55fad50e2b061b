"""What a figure's run found: arms with intervals, and claims about paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.statistics import Interval
from studies.common.results import Provenance, Result
from studies.figures.figure import START, ZERO, Claim, Figure
from studies.figures.run import Outcome, RunSettings
from studies.figures.scores import ArmScores, mean_score

__all__ = ["Verdict", "figure_result", "verdicts"]


@dataclass(frozen=True)
class Verdict:
    """A claim and the differences that were found, by the score that was compared.

    `differences` are of `factor * higher - lower`; `by_seed` are those of each seed alone.
    """

    claim: Claim
    differences: Mapping[str, Interval]
    by_seed: Mapping[str, Sequence[Interval]]

    def holds(self, measured: str) -> bool:
        """Return whether the whole interval is above the claim's least difference."""
        return _above(self.differences[measured], self.claim)


def verdicts(figure: Figure, outcomes: Sequence[Outcome]) -> tuple[Verdict, ...]:
    """Judge the claims whose arms were run, on the tasks that all arms share."""
    runs = {outcome.arm.name: [run.scores for run in outcome.runs] for outcome in outcomes}
    start = runs[START]
    return tuple(
        _verdict(claim, runs.get(claim.lower, start), runs.get(claim.higher, start))
        for claim in figure.claims
        if {claim.lower, claim.higher} <= {*runs, ZERO}
    )


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
            "device": settings.device,
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
            "orderings": [_ordering(verdict) for verdict in verdicts(figure, outcomes)],
        },
    )


def _verdict(claim: Claim, lower: Sequence[ArmScores], higher: Sequence[ArmScores]) -> Verdict:
    differences, by_seed = {}, {}
    for measured in lower[0].compared:
        low, high = (
            np.array([run.scores[ZERO if name == ZERO else measured] for run in runs])
            for name, runs in ((claim.lower, lower), (claim.higher, higher))
        )
        high = claim.factor * high  # (seeds, tasks), as `low`
        by_seed[measured] = [
            paired_difference(left.tolist(), right.tolist())
            for left, right in zip(high, low, strict=True)
        ]
        differences[measured] = paired_difference(
            high.mean(axis=0).tolist(), low.mean(axis=0).tolist()
        )
    return Verdict(claim, differences, by_seed)


def _above(interval: Interval, claim: Claim) -> bool:
    return interval.mean - interval.half_width > claim.least_difference


def _row(outcome: Outcome) -> dict[str, object]:
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


def _ordering(verdict: Verdict) -> dict[str, object]:
    claim = verdict.claim
    return {
        "text": claim.text,
        "lower": claim.lower,
        "higher": claim.higher,
        "factor": claim.factor,
        "least_difference": claim.least_difference,
        "found": {
            measured: {
                "holds": verdict.holds(measured),
                **_interval(difference),
                "by_seed": [
                    {"holds": _above(seed, claim), **_interval(seed)}
                    for seed in verdict.by_seed[measured]
                ],
            }
            for measured, difference in verdict.differences.items()
        },
    }


def _interval(interval: Interval) -> dict[str, object]:
    return {
        "mean": _number(interval.mean),
        "ci95": _number(interval.half_width),
        "ci_method": interval.method,
    }


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no word for one that is not finite."""
    return value if math.isfinite(value) else None
