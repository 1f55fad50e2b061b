"""Adaptations that step together: each ends as alone, and their figures follow from the rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kshot.bench.speed.contenders import kshot_loop, kshot_spec, named_parameters
from kshot.bench.speed.stacked import Stacked, stacked_loop
from kshot.bench.speed.timed_tasks import AdaptTask


def test_each_task_ends_as_alone(make_task: Callable[..., AdaptTask]) -> None:
    task = make_task()
    spec = kshot_spec(task)
    alone = kshot_loop(task, spec.build())().parameters()
    adapt = stacked_loop(task, spec.of_tasks(3).build(), 3)

    for _ in range(2):  # slots are taken again
        results = adapt()

        assert len(results) == 3
        for result in results:
            assert result.width == 3
            together = named_parameters(spec.layout(), result.parameters[None])
            for name, value in alone.items():
                torch.testing.assert_close(together[name][: len(value)], value)


def test_figures_follow_from_the_samples() -> None:
    stacked = Stacked(4, [20.0, 10.0, 40.0])

    assert stacked.document([10.0, 10.0, 10.0]) == {
        "tasks": 4,
        "ms": {"p50": 20.0, "p95": pytest.approx(38.0), "p99": pytest.approx(39.6)},
        "ms_per_task": 5.0,
        "adaptations_per_second": pytest.approx(200.0),
        "ratio_vs_alone": pytest.approx(2.0),
    }
