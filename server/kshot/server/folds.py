"""Answers for left-out examples where a model takes steps: cross-validation by folds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kshot.server.engine_link.client import EngineResult, EngineTask

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
# Answers examples (rows of the support set) by what the engine made of a task.
Answer = Callable[[EngineTask, EngineResult, Floats], Awaitable[Floats]]


def folds_of(classes: Sequence[int], fold_count: int, seed: int) -> list[Integers]:
    """Divide examples of classes `(n,)` into folds: the rows of each, sorted.

    Every class is spread evenly, and keeps an example outside each fold; the only one of its class
    is in none.
    """
    labels = np.asarray(classes)
    fold_of = np.full(len(labels), -1)
    generator = np.random.default_rng(seed)
    for number in range(labels.max() + 1):
        rows = generator.permutation(np.flatnonzero(labels == number))
        if len(rows) > 1:
            fold_of[rows] = np.arange(len(rows)) % min(fold_count, len(rows))
    folds = (np.flatnonzero(fold_of == number) for number in range(fold_count))
    return [rows for rows in folds if len(rows)]


async def held_out_logits(
    task: EngineTask,
    run_engine: Callable[[EngineTask], Awaitable[EngineResult]],
    answer: Answer,
) -> Floats | None:
    """Adapt to all but each fold and answer the fold: logits `(n, way)`, zero for lone examples.

    None where no class has two examples, or where a loop does not end well. Raises what
    `run_engine` raises; the other loops are cancelled then.
    """
    classes, options = np.asarray(task.class_indices), task.options
    logits = np.zeros((len(classes), task.way), np.float32)
    folds = folds_of(task.class_indices, options.fold_count, options.seed)

    async def leave_out(rows: Integers) -> bool:
        kept = np.delete(np.arange(len(classes)), rows)
        fold = replace(
            task,
            support=task.support[kept],
            class_indices=tuple(classes[kept].tolist()),
            options=replace(options, allow_partial=False),
        )
        result = await run_engine(fold)
        if result.stop_reason != "COMPLETED":
            return False
        logits[rows] = await answer(fold, result, task.support[rows])
        return bool(np.isfinite(logits[rows]).all())

    try:
        async with asyncio.TaskGroup() as group:
            answered = [group.create_task(leave_out(rows)) for rows in folds]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return logits if folds and all(one.result() for one in answered) else None
