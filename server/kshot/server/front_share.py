"""Adaptations of blank tasks that measure what the front and an engine have to do for one."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np

from kshot.server.call_context import begin_call
from kshot.server.engine_link.engine_count import Share, best_count, processor_seconds, usable_cores
from kshot.server.errors import RequestError
from kshot.server.front import Front
from kshot.server.predict.catalog import ServedModel
from kshot.server.request.inputs import AdaptInput, PredictInput, SupportSet, TensorImages
from kshot.server.request.violations import Violations

_SHOT = 2  # the least that a tail adapts to
# The clock of another process ticks a hundred times a second.
_LEAST_SECONDS, _LEAST_ROUNDS = 0.5, 2
_TIMEOUT_SECONDS = 60.0
# A server has so long for enough rounds without calls of others; it looks for a pause so often.
_PATIENCE_SECONDS, _LOOK_SECONDS = 10.0, 0.02


async def measure_share(front: Front, engine_pid: int) -> Share | None:
    """Measure the share of the served model that most engines pay for; None if none can adapt now.

    The engine with this process id must be the one that adapts while there is nothing else to do.
    """
    known = []
    for model in front.catalog:
        with suppress(RequestError):  # as when the queue is full
            share = await _share(front, model, engine_pid)
            if share is not None and share.engine > 0:
                known.append(share)
    cores = usable_cores()
    most = max(known, key=lambda share: best_count(share, cores), default=None)
    return most and replace(most, quiet=all(share.quiet for share in known))


async def _share(front: Front, model: ServedModel, engine_pid: int) -> Share | None:
    """Measure rounds in which nobody else asks for anything, or any where there are too few."""
    task, query = _blank(model)
    queues = front.adapting, front.predicting

    async def adapt() -> None:
        begin_call("measure_share", _TIMEOUT_SECONDS)
        await front.adapt_and_predict(task, query, Violations())

    def clocks() -> tuple[float, ...]:
        engine = processor_seconds(engine_pid)
        parts = math.nan if engine is None else engine, time.process_time(), time.thread_time()
        return (time.monotonic(), *parts)

    await adapt()  # the first makes sessions and buffers
    quiet, busy, began = _Rounds(), _Rounds(), time.monotonic()
    while not quiet.enough:
        if all(queue.is_idle for queue in queues):
            early, admitted = clocks(), sum(queue.admitted for queue in queues)
            await adapt()
            if sum(queue.admitted for queue in queues) == admitted + 1:
                quiet.add(early, clocks())
                continue
        else:
            await asyncio.sleep(_LOOK_SECONDS)
        if time.monotonic() - began > _PATIENCE_SECONDS:
            break
    while not (quiet.enough or busy.enough):
        early = clocks()
        await adapt()
        busy.add(early, clocks())
    _, engine, whole_front, loop = (quiet if quiet.enough else busy).mean()
    return None if math.isnan(engine) else Share(engine, whole_front, loop, quiet.enough)


class _Rounds:
    """Adaptations one after another, and what each took by some clocks, first of all a wall's."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, ...]] = []

    @property
    def enough(self) -> bool:
        """Tell whether a mean of these rounds means something."""
        seconds = sum(taken[0] for taken in self._taken)
        return len(self._taken) >= _LEAST_ROUNDS and seconds >= _LEAST_SECONDS

    def add(self, early: tuple[float, ...], late: tuple[float, ...]) -> None:
        """Add a round between two looks at the clocks."""
        self._taken.append(tuple(end - begin for begin, end in zip(early, late, strict=True)))

    def mean(self) -> list[float]:
        """Return what a round takes by each clock."""
        return [sum(clock) / len(self._taken) for clock in zip(*self._taken, strict=True)]


def _blank(model: ServedModel) -> tuple[AdaptInput, PredictInput]:
    """Make a request of the usual size with random pixels, or features."""
    manifest = model.bundle.manifest
    way = manifest.usual_way
    shot = _SHOT if manifest.limits.max_support_count >= _SHOT * way else 1
    channels, height, width = manifest.input.shape
    random = np.random.default_rng(0)

    def images(count: int) -> TensorImages:
        if manifest.input.preprocessing:
            shape = (count, height, width, channels)
            pixels = random.integers(0, 256, shape, np.uint8)
            return TensorImages("UINT8", shape, pixels.tobytes())
        features = random.random((count, channels * height * width), np.float32)
        return TensorImages("FP32", features.shape, features.tobytes())

    indices = tuple(index for index in range(way) for _ in range(shot))
    names = tuple(map(str, range(way)))
    support = SupportSet(images(way * shot), indices, names)
    query = PredictInput(images(1), None, top_k=1, return_logits=False)
    return AdaptInput(manifest.name, support, {}), query
