"""What an experiment found: arms with intervals, and its claims on paired differences, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kshot.bundle import write_synced
from kshot.trainer.bundling.packaging import library_versions
from kshot.trainer.errors import TrainingError
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.experiment import START, ZERO, Experiment, Ordering
from kshot.trainer.experiment_run import Outcome, RunSettings
from kshot.trainer.experiment_scores import ArmScores, mean_score
from kshot.trainer.recipe.recipe import recipe_digest
from kshot.trainer.statistics import Interval

__all__ = ["Verdict", "result_document", "verdicts", "write_result"]


@dataclass(frozen=True)
class Verdict:
    """A claim and what was found, by what was measured.

    ``differences`` are of ``factor * higher - lower``; ``by_seed`` those of each seed alone.
    """

    ordering: Ordering
    differences: Mapping[str, Interval]
    by_seed: Mapping[str, Sequence[Interval]]

    def holds(self, measured: str) -> bool:
        """Tell whether the whole interval is above what the claim says."""
        return _above(self.differences[measured], self.ordering.least_difference)


def verdicts(experiment: Experiment, outcomes: Sequence[Outcome]) -> tuple[Verdict, ...]:
    """Compare what the claims compare, where both were run, on the tasks that all arms share."""
    runs = {outcome.arm.name: [run.scores for run in outcome.runs] for outcome in outcomes}
    start = runs[START]
    return tuple(
        _verdict(ordering, runs.get(ordering.lower, start), runs.get(ordering.higher, start))
        for ordering in experiment.orderings
        if {ordering.lower, ordering.higher} <= {*runs, ZERO}
    )


def result_document(
    experiment: Experiment, settings: RunSettings, outcomes: Sequence[Outcome]
) -> dict[str, object]:
    """Lay out an experiment's settings, arms and claims for JSON."""
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "settings": {
            "scale": settings.scale,
            "step_scale": settings.step_scale,
            "seeds": [run.seed for run in outcomes[0].runs],
            "overrides": list(settings.overrides),
            "arms": list(settings.arms),
            "device": settings.device,
        },
        "queries_per_task": outcomes[0].runs[0].scores.query_count,
        "library_versions": library_versions(),
        "arms": [_arm(outcome) for outcome in outcomes],
        "orderings": [_ordering(verdict) for verdict in verdicts(experiment, outcomes)],
    }


def write_result(path: Path, document: Mapping[str, object]) -> None:
    """Write a result, whole or not at all; raises ``TrainingError``."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        write_synced(temporary, (json.dumps(document, indent=1) + "\n").encode())
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"{path} could not be written: {error.strerror}") from error


def _verdict(
    ordering: Ordering, lower: Sequence[ArmScores], higher: Sequence[ArmScores]
) -> Verdict:
    factor = 1.0 if ordering.factor is None else ordering.factor
    differences, by_seed = {}, {}
    for measured in lower[0].compared:
        low, high = (
            np.array([run.scores[ZERO if name == ZERO else measured] for run in runs])
            for name, runs in ((ordering.lower, lower), (ordering.higher, higher))
        )
        high = factor * high  # (seeds, tasks), as the lower ones
        by_seed[measured] = [
            paired_difference(left.tolist(), right.tolist())
            for left, right in zip(high, low, strict=True)
        ]
        differences[measured] = paired_difference(
            high.mean(axis=0).tolist(), low.mean(axis=0).tolist()
        )
    return Verdict(ordering, differences, by_seed)


def _above(interval: Interval, least: float) -> bool:
    return interval.mean - interval.half_width > least


def _arm(outcome: Outcome) -> dict[str, object]:
    runs = [run.scores for run in outcome.runs]
    outer = outcome.recipe.outer
    return {
        "name": outcome.arm.name,
        "title": outcome.arm.title,
        "line": outcome.arm.line,
        "set": list(outcome.arm.overrides),
        "value": outcome.value,
        "recipe_digest": recipe_digest(outcome.recipe),
        "meta_iterations": outer.meta_iterations if outcome.arm.name != START else 0,
        "meta_step_size": outer.meta_step_size,
        "task_count": len(next(iter(runs[0].scores.values()))),
        "scores": {
            measured: {
                **_interval(mean_score(runs, measured)),
                "by_seed": [mean_score([run], measured).mean for run in runs],
            }
            for measured in runs[0].scores
        },
        "curves": [{"seed": run.seed, "points": list(run.curve)} for run in outcome.runs],
    }


def _ordering(verdict: Verdict) -> dict[str, object]:
    ordering = verdict.ordering
    return {
        "text": ordering.text,
        "lower": ordering.lower,
        "higher": ordering.higher,
        "factor": 1.0 if ordering.factor is None else ordering.factor,
        "least_difference": ordering.least_difference,
        "found": {
            measured: {
                "holds": verdict.holds(measured),
                **_interval(difference),
                "by_seed": [
                    {"holds": _above(seed, ordering.least_difference), **_interval(seed)}
                    for seed in verdict.by_seed[measured]
                ],
            }
            for measured, difference in verdict.differences.items()
        },
    }


def _interval(interval: Interval) -> dict[str, object]:
    return {"mean": interval.mean, "ci95": interval.half_width, "ci_method": interval.method}
