"""Adaptations of blank tasks that measure what the front and an engine have to do for one."""

from __future__ import annotations

import time
from contextlib import suppress

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


async def measure_share(front: Front, engine_pid: int) -> Share | None:
    """Measure the share of the served model that most engines pay for; None if none can adapt now.

    The engine with this process id must be the only one that adapts.
    """
    known = []
    for model in front.catalog:
        with suppress(RequestError):  # as when the queue is full
            share = await _share(front, model, engine_pid)
            if share is not None and share.engine > 0:
                known.append(share)
    cores = usable_cores()
    return max(known, key=lambda share: best_count(share, cores), default=None)


async def _share(front: Front, model: ServedModel, engine_pid: int) -> Share | None:
    begin_call("measure_share", _TIMEOUT_SECONDS)
    task, query = _blank(model)

    async def adapt() -> None:
        await front.adapt_and_predict(task, query, Violations())

    def spent() -> tuple[float, float, float] | None:
        engine = processor_seconds(engine_pid)
        return None if engine is None else (engine, time.process_time(), time.thread_time())

    await adapt()  # the first makes sessions and buffers
    before, began, rounds = spent(), time.monotonic(), 0
    while rounds < _LEAST_ROUNDS or time.monotonic() - began < _LEAST_SECONDS:
        await adapt()
        rounds += 1
    after = spent()
    if before is None or after is None:
        return None
    return Share(*((late - early) / rounds for early, late in zip(before, after, strict=True)))


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
