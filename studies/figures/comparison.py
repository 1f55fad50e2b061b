"""What a figure's run found: arms with intervals, and claims about paired differences."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.statistics import T_METHOD, Interval, accuracy_interval, t_half_width
from studies.common.results import Provenance, Result
from studies.figures.figure import START, ZERO, Claim, Figure, RunSettings
from studies.figures.training import Outcome


def figure_result(
    figure: Figure, settings: RunSettings, outcomes: Sequence[Outcome], made_with: Provenance
) -> Result:
    """Lay out a run's arms, a row each, with curves and claims beside them."""
    curves = {}
    for outcome in outcomes:
        along = zip(made_with.seeds, outcome.curves, strict=True)
        curves[outcome.arm.name] = [{"seed": seed, "points": points} for seed, points in along]
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
            "queries_per_task": outcomes[0].query_count,
            "curves": curves,
            "orderings": orderings(figure, outcomes),
        },
    )


def orderings(figure: Figure, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Judge the claims whose arms were run, on the tasks that all arms share.

    Each claim has what was `found` by each compared score: the paired difference `factor * higher -
    lower` with its interval, for the seeds together and alone, and whether the claim `holds`.
    """
    start, scores = outcomes[0], {outcome.arm.name: outcome.scores for outcome in outcomes}
    if ZERO in start.scores:
        scores[ZERO] = dict.fromkeys(start.compared, start.scores[ZERO])

    def judge(claim: Claim, measured: str) -> dict[str, Any]:
        high, low = claim.factor * scores[claim.higher][measured], scores[claim.lower][measured]
        found = []
        for left, right in [(high.mean(axis=0), low.mean(axis=0)), *zip(high, low, strict=True)]:
            difference = paired_difference(left.tolist(), right.tolist())
            holds = difference.mean - difference.half_width > claim.least_difference
            found.append({"holds": holds, **_interval(difference)})
        return {**found[0], "by_seed": found[1:]}

    return [
        {**asdict(claim), "found": {name: judge(claim, name) for name in start.compared}}
        for claim in figure.claims
        if {claim.lower, claim.higher} <= scores.keys()
    ]


def mean_score(scores: npt.NDArray[np.float64], query_count: int) -> Interval:
    """Estimate an arm's mean score on new tasks, from its scores `(seeds, tasks)`.

    The interval is over tasks, each task's score averaged over the seeds. It covers other tasks,
    not other seeds.
    """
    values = scores.mean(axis=0)
    if query_count:
        queries = query_count * len(scores)
        return accuracy_interval(np.rint(values * queries).astype(np.int64), queries)
    return Interval(float(values.mean()), t_half_width(values), T_METHOD)


def _row(outcome: Outcome) -> dict[str, Any]:
    arm, outer, query_count = outcome.arm, outcome.recipe.outer, outcome.query_count
    return {
        "name": arm.name,
        "title": arm.title,
        "line": arm.line,
        "set": arm.settings,
        "value": outcome.value,
        "recipe_digest": recipe_digest(outcome.recipe),
        "meta_iterations": outer.meta_iterations if arm.name != START else 0,
        "meta_step_size": outer.meta_step_size,
        "task_count": outcome.scores[outcome.compared[0]].shape[1],
        "scores": {
            measured: {
                **_interval(mean_score(scores, query_count)),
                "by_seed": [_number(mean_score(one, query_count).mean) for one in scores[:, None]],
            }
            for measured, scores in outcome.scores.items()
        },
    }


def _interval(interval: Interval) -> dict[str, Any]:
    mean, half_width = _number(interval.mean), _number(interval.half_width)
    return {"mean": mean, "ci95": half_width, "ci_method": interval.method}


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no word for one that is not finite."""
    return value if math.isfinite(value) else None
