"""Folds of a support set, and the answers for what each leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kshot.server.call_context import begin_call
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.errors import DeadlineExceeded, DeviceMemoryFull, EngineUnavailable
from kshot.server.folds import FoldsFailedError, folds_of, held_out_logits
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.workers import Workers

Make = Callable[..., AdaptedModelRecord]
Run = Callable[[EngineTask], Any]
DONE = cast(EngineResult, SimpleNamespace(parameters={}, statistics={}, stop_reason="COMPLETED"))
DIVERGED = cast(EngineResult, SimpleNamespace(**{**vars(DONE), "stop_reason": "DIVERGED"}))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(2, 10))
def test_each_example_is_in_one_fold_unless_it_is_alone(counts: list[int], fold_count: int) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    folds = folds_of(classes.tolist(), fold_count, seed=3)

    rows = sorted(row for fold in folds for row in fold.tolist())
    assert rows == [row for row, label in enumerate(classes) if counts[label] > 1]
    assert len(folds) <= fold_count
    for fold in folds:
        assert set(np.delete(classes, fold)) == set(range(len(counts)))
    again = folds_of(classes.tolist(), fold_count, seed=3)
    assert [fold.tolist() for fold in again] == [fold.tolist() for fold in folds]


class Predictor:
    """Answers each example by its number, one in each run."""

    def parts(self, _arrays: AdaptedArrays, count: int, _mode: object) -> list[slice]:
        return [slice(row, row + 1) for row in range(count)]

    def logits(self, arrays: AdaptedArrays, left_out: np.ndarray, _mode: object) -> np.ndarray:
        assert not set(arrays.support.ravel()) & set(left_out.ravel())
        return np.repeat(left_out.reshape(-1, 1), 3, axis=1)


@pytest.fixture
def answered(make_model: Make) -> Callable[..., np.ndarray]:
    """Leave out two folds of six examples, whose logits are their numbers."""

    def call(
        run: Run, classes: tuple[int, ...] = (0, 0, 1, 1, 1, 2), remaining: float | None = None
    ) -> np.ndarray:
        options = replace(make_model().options, fold_count=2)
        support = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
        task = EngineTask("tiny", "0" * 64, support, classes, 3, options)

        async def work() -> np.ndarray:
            begin_call("Adapt", remaining)
            workers = Workers()
            try:
                return await held_out_logits(task, run, cast(Any, Predictor()), workers, remaining)
            finally:
                await workers.close()

        return asyncio.run(work())

    return call


def test_answers_stand_at_their_examples(answered: Callable[..., np.ndarray]) -> None:
    async def run(fold: EngineTask) -> EngineResult:
        assert len(fold.class_indices) == len(fold.support) < 6
        return DONE

    assert answered(run)[:, 0].tolist() == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (DeadlineExceeded(), "the time did not suffice"),
        (DeviceMemoryFull(), "memory did not suffice"),
        (EngineUnavailable(), "the engine stopped"),
        (None, "diverged"),
    ],
)
def test_a_fold_that_fails_costs_the_answers(
    answered: Callable[..., np.ndarray], failure: Exception | None, message: str
) -> None:
    results = [DONE]

    async def run(_fold: EngineTask) -> EngineResult:
        if results:
            return results.pop()
        if failure is not None:
            raise failure
        return DIVERGED

    with pytest.raises(FoldsFailedError, match=message):
        answered(run)


def test_folds_leave_time_to_send_the_model(answered: Callable[..., np.ndarray]) -> None:
    """Of half a second they get a fifth."""

    async def run(_fold: EngineTask) -> EngineResult:
        await asyncio.Event().wait()
        return DONE

    with pytest.raises(FoldsFailedError, match="the time did not suffice"):
        answered(run, remaining=0.5)


def test_lone_examples_tell_nothing(answered: Callable[..., np.ndarray]) -> None:
    async def run(_fold: EngineTask) -> EngineResult:
        raise AssertionError

    with pytest.raises(FoldsFailedError, match="two examples or more of two classes"):
        answered(run, classes=(0, 0, 0, 0, 1, 2))


def test_a_cancelled_call_ends_its_folds(answered: Callable[..., np.ndarray]) -> None:
    """The caller has gone: nothing is stored for it."""

    async def run(_fold: EngineTask) -> EngineResult:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)
        raise AssertionError

    with pytest.raises(asyncio.CancelledError):
        answered(run)
