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

from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.folds import folds_of, held_out_logits
from kshot.server.request.options import AdaptOptions
from kshot.server.store.adapted_model import AdaptedModelRecord

Make = Callable[..., AdaptedModelRecord]


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


def answered(options: AdaptOptions, stop_reasons: list[str]) -> np.ndarray | None:
    """Leave out folds of six examples, whose answers are the rows that each was adapted to."""
    support = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    task = EngineTask("tiny", "0" * 64, support, (0, 0, 1, 1, 1, 2), 3, options)

    async def run(_fold: EngineTask) -> EngineResult:
        return cast(Any, SimpleNamespace(stop_reason=stop_reasons.pop()))

    async def answer(fold: EngineTask, _result: EngineResult, left_out: np.ndarray) -> np.ndarray:
        assert not set(fold.support.ravel()) & set(left_out.ravel())
        assert len(fold.class_indices) == len(fold.support)
        return np.repeat(left_out.reshape(-1, 1), 3, axis=1)

    return asyncio.run(held_out_logits(task, run, answer))


def test_answers_stand_at_their_examples(make_model: Make) -> None:
    options = replace(make_model().options, fold_count=2)

    found = answered(options, ["COMPLETED"] * 2)

    assert found is not None
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("reason", ["TIME_BUDGET", "DIVERGED"])
def test_a_loop_that_ends_early_leaves_no_answers(make_model: Make, reason: str) -> None:
    options = replace(make_model().options, fold_count=2)

    assert answered(options, ["COMPLETED", reason]) is None
