"""Answers for left-out examples where a model takes steps: cross-validation by folds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from kshot.server.call_context import seconds_to_spare
from kshot.server.engine_link.client import EngineResult, EngineTask
from kshot.server.errors import DeadlineExceeded, DeviceMemoryFull, EngineUnavailable
from kshot.server.predict.predictor import Predictor
from kshot.server.store.adapted_model import AdaptedArrays
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
RunFold = Callable[[EngineTask], Awaitable[EngineResult]]


class FoldsFailedError(Exception):
    """Cross-validation gave no answers; the message says why, for the caller."""


def some_may_be_left_out(classes: Sequence[int]) -> bool:
    """Tell whether two classes or more have two examples, so that an accuracy can be estimated."""
    return sum(count > 1 for count in Counter(classes).values()) > 1


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
    run: RunFold,
    predictor: Predictor,
    workers: Workers,
    remaining: float | None,
) -> Floats:
    """Adapt to all but each fold and answer the fold: logits `(n, way)`, zero for lone examples.

    One fold after another, so that other calls come in between. The model itself is made already:
    whatever goes wrong raises `FoldsFailedError` and costs the answers alone. `remaining` are the
    caller's seconds, None without a deadline.
    """
    if not some_may_be_left_out(task.class_indices):
        raise FoldsFailedError("expected two examples or more of two classes or more")
    logits = np.zeros((len(task.class_indices), task.way), np.float32)
    try:
        async with asyncio.timeout(seconds_to_spare(remaining)):
            for rows in folds_of(task.class_indices, task.options.fold_count, task.options.seed):
                logits[rows] = await _leave_out(task, rows, run, predictor, workers)
    except (DeadlineExceeded, TimeoutError):
        raise FoldsFailedError("the time did not suffice; allow more, or ask for fewer") from None
    except DeviceMemoryFull:
        raise FoldsFailedError("the device's memory did not suffice; ask again later") from None
    except EngineUnavailable:
        raise FoldsFailedError("the engine stopped meanwhile; adapt again") from None
    return logits


async def _leave_out(
    task: EngineTask, rows: Integers, run: RunFold, predictor: Predictor, workers: Workers
) -> Floats:
    """Adapt without these rows of the support set and answer them: `(rows, way)`."""
    kept = np.delete(np.arange(len(task.class_indices)), rows)
    fold = replace(
        task,
        support=task.support[kept],
        class_indices=tuple(np.asarray(task.class_indices)[kept].tolist()),
        options=replace(task.options, allow_partial=False),
    )
    result = await run(fold)
    arrays = AdaptedArrays(result.parameters, result.statistics, fold.support)
    mode, left_out = task.options.batch_norm_mode, task.support[rows]

    if result.stop_reason != "COMPLETED":
        raise FoldsFailedError("an inner loop of theirs diverged; lower options.learning_rate")
    parts = predictor.parts(arrays, len(rows), mode)
    answers = [
        await workers.compute(partial(predictor.logits, arrays, left_out[part], mode))
        for part in parts
    ]
    logits = np.concatenate(answers)
    if not np.isfinite(logits).all():
        raise FoldsFailedError("an inner loop of theirs diverged; lower options.learning_rate")
    return logits
