"""What an adaptation keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import BatchNormMode
from kshot.server.adaptation import _kept_examples, _kept_support, adapt
from kshot.server.call_context import begin_call
from kshot.server.checked_task import CheckedTask
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.errors import AdaptationDiverged
from kshot.server.store.kept_support import PackedImages

STORED, SUPPORT = BatchNormMode.STORED, BatchNormMode.SUPPORT
LABELS = (0, 1, 0)


@pytest.fixture
def make_task(make_model: Callable[..., Any]) -> Callable[..., CheckedTask]:
    """Make a task of three vectors."""

    def make(**options: object) -> CheckedTask:
        support = np.ones((3, 1000, 1, 1), np.float32)
        changed = replace(make_model().options, **options)
        task = EngineTask("tiny", "b" * 64, support, LABELS, 2, changed)
        return CheckedTask(task, ("a", "b"), support)

    return make


def test_a_head_in_mode_stored_does_not_hold_the_features(
    make_task: Callable[..., CheckedTask],
) -> None:
    """A view would: the cache counts the head alone, and features of many examples are larger."""
    task = make_task(batch_norm_mode=STORED)

    kept, examples = _kept_support(task), _kept_examples(task)

    assert kept.shape == (3, 0, 1, 1)
    assert not np.may_share_memory(kept, task.engine_task.support)
    assert kept.base is None
    assert examples is not None
    assert examples.images is not None
    np.testing.assert_array_equal(examples.images.unpacked(), task.images)
    assert tuple(examples.classes) == LABELS


def test_packed_images_are_kept_beside_the_encoded_ones(
    make_task: Callable[..., CheckedTask],
) -> None:
    task = replace(
        make_task(batch_norm_mode=SUPPORT), packed=PackedImages(np.ones((3, 1, 2, 2), np.float32))
    )

    examples = _kept_examples(task)

    assert examples is not None
    assert examples.images is task.packed
    assert _kept_support(task) is task.engine_task.support


@pytest.mark.parametrize(
    ("options", "count"), [({}, 1000), ({"retain_support": False}, 0), ({"ttl": 0.0}, 1000)]
)
def test_examples_are_kept_where_the_model_is(
    make_task: Callable[..., CheckedTask], options: dict[str, Any], count: int
) -> None:
    """A call that keeps no model may answer in any mode."""
    task = make_task(batch_norm_mode=SUPPORT, **options)

    assert _kept_support(task).shape == (3, count, 1, 1)
    assert (_kept_examples(task) is None) is bool(options)


def test_computing_that_diverges_counts(make_task: Callable[..., CheckedTask]) -> None:
    async def diverge(_task: EngineTask, _seconds: float | None) -> EngineResult:
        return EngineResult({}, {}, 3, "DIVERGED", (), 0.0, 2.5, "fake", 0)

    async def brief(work: Callable[[], Any]) -> Any:  # noqa: ANN401 -- what the work returns
        return work()

    async def ask() -> float:
        call = begin_call("Adapt")
        with pytest.raises(AdaptationDiverged):
            workers = SimpleNamespace(brief=brief, prepare=brief)
            await adapt(make_task(), diverge, cast(Any, None), cast(Any, workers))
        return call.engine_seconds

    assert asyncio.run(ask()) == 2.5
