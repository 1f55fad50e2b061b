"""Small requests to one adapted model, batched while an earlier batch runs."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode
from kshot.server.call_context import current_call
from kshot.server.predict.prediction import Answers
from kshot.server.request.inputs import Images, TensorImages
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], Floats]
Key = tuple[str, BatchNormMode]
Result = TypeVar("Result")
Outcome = Answers | Exception

# Larger requests gain nothing from a batch: they run alone, and no other waits for them.
MAX_REQUEST_IMAGES = 16
MAX_BATCH_IMAGES = 64
# Larger requests, and files of unknown size, may take long to decode.
MAX_REQUEST_BYTES = 2**20


def may_join(queries: Images | None, image_count: int, mode: BatchNormMode) -> bool:
    """Tell whether a request is small, and each answer depends on its own query alone."""
    return (
        mode is not BatchNormMode.TRANSDUCTIVE
        and isinstance(queries, TensorImages)
        and len(queries.data) <= MAX_REQUEST_BYTES
        and image_count <= MAX_REQUEST_IMAGES
    )


@dataclass(frozen=True)
class Request:
    """One call's part: `prepare` decodes and checks its queries, `finish` reads its logits.

    `image_count` counts the images that run through the network. Both functions block, and may
    raise.
    """

    prepare: Callable[[], Floats]
    finish: Callable[[Floats], Answers]
    image_count: int


@dataclass(frozen=True, eq=False)
class _Member:
    request: Request
    answered: asyncio.Future[Answers]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    asked: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Batch:
    key: Key
    members: Sequence[_Member]
    run: Run


class PredictionBatches:
    """Runs the requests of one adapted model and mode in turn; for one event loop.

    A request runs at once unless another runs. Those that arrive meanwhile run together after it,
    up to `MAX_BATCH_IMAGES`. Each keeps its own errors and deadline.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._waiting: dict[Key, deque[_Member]] = {}  # a key is there while a batch of it runs

    async def answer(self, key: Key, request: Request, run: Run) -> Answers:
        """Return what `finish` makes of the request's logits; raise what its functions raise.

        `run` maps queries to logits, each row on its own. It is the same for all requests of a key.
        """
        member = _Member(request, asyncio.get_running_loop().create_future())
        waiting = self._waiting.get(key)
        if waiting is None:
            self._start(_Batch(key, [member], run), deque())
        else:
            waiting.append(member)
        return await member.answered

    def _start(self, batch: _Batch, waiting: deque[_Member]) -> None:
        loop = asyncio.get_running_loop()

        def end(job: Future[list[Outcome]]) -> None:
            with suppress(RuntimeError):  # the loop is gone, and the callers with it
                loop.call_soon_threadsafe(self._end, batch, job)

        try:
            job = self._workers.submit_compute(lambda: _work(batch))
        except RuntimeError:  # the server has stopped
            _cancel((*batch.members, *waiting))
            return
        self._waiting[batch.key] = waiting
        job.add_done_callback(end)

    def _end(self, batch: _Batch, job: Future[list[Outcome]]) -> None:
        """Deliver the outcomes of a batch and start the next."""
        waiting = self._waiting.pop(batch.key)
        if job.cancelled():  # the server stops
            _cancel((*batch.members, *waiting))
            return
        for member, outcome in zip(batch.members, job.result(), strict=True):
            if member.answered.done():
                continue  # its caller has left
            if isinstance(outcome, Exception):
                member.answered.set_exception(outcome)
            else:
                member.answered.set_result(outcome)
        if following := _take(waiting):
            self._start(replace(batch, members=following), waiting)


def _cancel(members: Sequence[_Member]) -> None:
    for member in members:
        member.answered.cancel()


def _take(waiting: deque[_Member]) -> list[_Member]:
    """Take the next batch, without callers that have left."""
    members: list[_Member] = []
    image_count = 0
    while waiting:
        if not waiting[0].answered.done():
            image_count += waiting[0].request.image_count
            if members and image_count > MAX_BATCH_IMAGES:
                break
            members.append(waiting[0])
        waiting.popleft()
    return members


def _work(batch: _Batch) -> list[Outcome]:
    """Answer a batch in a thread; an exception of one request is its own outcome."""
    queries = [_attempt(partial(member.context.run, _prepare, member)) for member in batch.members]
    fitting = [part for part in queries if not isinstance(part, Exception)]
    logits = iter(_run(fitting, batch.run))
    return [
        part if isinstance(part, Exception) else _finish(member, next(logits))
        for member, part in zip(batch.members, queries, strict=True)
    ]


def _prepare(member: _Member) -> Floats:
    current_call().add("queue", time.perf_counter() - member.asked)
    current_call().check()
    return member.request.prepare()


def _run(queries: Sequence[Floats], run: Run) -> list[tuple[Floats | Exception, float]]:
    """Run requests together, or one by one if that fails; return logits and seconds of each."""
    if not queries:
        return []
    together = queries[0] if len(queries) == 1 else np.concatenate(queries)
    start = time.perf_counter()
    logits = _attempt(partial(run, together))
    seconds = time.perf_counter() - start
    if len(queries) == 1:
        return [(logits, seconds)]
    if isinstance(logits, Exception):
        return [outcome for part in queries for outcome in _run([part], run)]
    ends = np.cumsum([len(part) for part in queries])[:-1]
    return [(part, seconds) for part in np.split(logits, ends)]


def _finish(member: _Member, outcome: tuple[Floats | Exception, float]) -> Outcome:
    logits, seconds = outcome
    if isinstance(logits, Exception):
        return logits

    def finish() -> Answers:
        current_call().add("compute", seconds)
        with current_call().measure("compute"):
            return member.request.finish(logits)

    return _attempt(partial(member.context.run, finish))


def _attempt(function: Callable[[], Result]) -> Result | Exception:
    try:
        return function()
    except Exception as error:
        return error
