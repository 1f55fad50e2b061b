from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import BatchNormMode, Head, HeadPolicy, Manifest
from kshot.trainer.bundling.step_counts import STEP_COUNTS, candidates, fit_step_counts
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings

SETTINGS = EvaluationSettings(5, 1, 5, 1000, BatchNormMode.SUPPORT)


def fake(manifest: Manifest, lost: dict[int, float]) -> Evaluator:
    """An evaluator in whose tasks the first step counts lose some accuracy, with noise."""
    random = np.random.default_rng(0)
    best = random.uniform(0.8, 1, 1000)

    def result(steps: int) -> Any:  # noqa: ANN401 -- of the fields that are read
        tasks = best - lost.get(steps, 0) + random.normal(0, 0.01, 1000)
        return SimpleNamespace(task_accuracies=tuple(tasks), accuracy=float(tasks.mean()))

    def compare(*_: object, step_counts: tuple[int, ...], **__: object) -> list[Any]:
        return [{steps: {BatchNormMode.SUPPORT: result(steps)} for steps in step_counts}]

    return cast(Evaluator, SimpleNamespace(manifest=manifest, compare=compare))


@pytest.mark.parametrize(
    ("lost", "wanted"),
    [
        ({1: 0.1, 2: 0.01}, 3),
        ({1: 0.0}, 1),
        ({1: 0.1, **dict.fromkeys(STEP_COUNTS[2:-1], 0.0025)}, 50),
    ],
)
def test_the_fewest_steps_whose_loss_is_surely_small(
    manifest: Manifest, lost: dict[int, float], wanted: int
) -> None:
    """A mean of 0.25 points is not surely below 0.3."""
    wide = replace(manifest, limits=replace(manifest.limits, max_step_count=50))

    (fit,) = fit_step_counts(SETTINGS, [2], fake(wide, lost))

    assert (fit.rule.max_shot, fit.rule.step_count) == (2, wanted)
    assert abs(fit.difference.mean) < 0.003


def test_no_step_is_tried_for_heads_from_the_support_set(manifest: Manifest) -> None:
    means = replace(manifest, head=HeadPolicy(Head.PROTOTYPE, (Head.PROTOTYPE,)))

    ridge = replace(manifest, head=HeadPolicy(Head.RIDGE, (Head.RIDGE,)))
    assert candidates(means)[0] == candidates(ridge)[0] == 0
    assert candidates(manifest)[0] == 1
    few = replace(manifest, limits=replace(manifest.limits, max_step_count=4))
    assert candidates(few) == (1, 2, 3)
