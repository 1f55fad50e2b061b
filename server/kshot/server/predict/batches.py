"""Small requests to one network, batched while an earlier batch runs."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kshot.bundle import BatchNormMode, ImageError, count_pixels
from kshot.bundle.turns import Turns
from kshot.server.call_context import current_call, current_caller, current_connection
from kshot.server.request.inputs import EncodedImages, Images, TensorImages
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], Floats]
Result = TypeVar("Result")

# Larger requests gain nothing from a batch: they run alone, and no other waits for them.
MAX_REQUEST_IMAGES = 16
MAX_BATCH_IMAGES = 64
# What is larger may take long to prepare.
MAX_REQUEST_BYTES = 2**20
MAX_DECODED_PIXELS = 2**19
# Reading a header takes a microsecond a byte or less, if the file is made to take long.
MAX_FILE_BYTES, MAX_FILES_BYTES = 2**14, 2**16
_PNG = b"\x89PNG"


def may_join(queries: Images | None, image_count: int, mode: BatchNormMode) -> bool:
    """Tell whether a request is small, and each answer depends on its own query alone."""
    return quick_to_prepare(queries) and few_alone(image_count, mode)


def quick_to_prepare(queries: Images | None) -> bool:
    """Tell whether nobody waits long while these images are prepared; files take longer."""
    return isinstance(queries, TensorImages) and len(queries.data) <= MAX_REQUEST_BYTES


def quick_to_decode(queries: Images | None) -> bool:
    """Tell whether these are few small files of small pictures, by their headers.

    PNGs and larger files are not opened, which may take long: they may hold compressed text, or
    thousands of empty segments.
    """
    if not isinstance(queries, EncodedImages) or len(queries.items) > MAX_REQUEST_IMAGES:
        return False
    sizes = [len(item) for item in queries.items]
    if sum(sizes) > MAX_FILES_BYTES or max(sizes, default=0) > MAX_FILE_BYTES:
        return False
    if any(item.startswith(_PNG) for item in queries.items):
        return False
    try:
        return sum(map(count_pixels, queries.items)) <= MAX_DECODED_PIXELS
    except ImageError:  # preparing them says what is wrong
        return False


def few_alone(image_count: int, mode: BatchNormMode) -> bool:
    """Tell whether there are few images to run, and each answer depends on its own query alone."""
    return mode is not BatchNormMode.TRANSDUCTIVE and image_count <= MAX_REQUEST_IMAGES


@dataclass(frozen=True)
class Request(Generic[Result]):
    """One call's part: `prepare` decodes and checks its images, `finish` reads their outputs.

    `image_count` counts the images that run through the network. Both functions block, and may
    raise.
    """

    prepare: Callable[[], Floats]
    finish: Callable[[Floats], Result]
    image_count: int


@dataclass(frozen=True, eq=False)
class _Member(Generic[Result]):
    request: Request[Result]
    answered: asyncio.Future[Result]
    caller: str = field(default_factory=current_caller)
    connection: str = field(default_factory=current_connection)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    asked: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Batch(Generic[Result]):
    key: Hashable
    members: Sequence[_Member[Result]]
    run: Run
    max_images: int


@dataclass
class _Queue(Generic[Result]):
    """The requests of a key that wait, how many batches of it run, and whose requests these are."""

    waiting: Turns[_Member[Result]] = field(default_factory=Turns)
    running: int = 0
    callers: Counter[str] = field(default_factory=Counter)


class Batches(Generic[Result]):
    """Runs the requests of one key together where they wait for each other; for one event loop.

    A request runs at once unless `lanes` batches of its key run, or one more if its caller is in
    none of them. Those that arrive meanwhile run together after one of these, up to `max_images`;
    callers take turns. Each keeps its own errors and deadline.
    """

    def __init__(self, workers: Workers, lanes: int = 1) -> None:
        self._workers = workers
        self._lanes = lanes
        self._queues: dict[Hashable, _Queue[Result]] = {}  # a key is there while a batch of it runs

    async def answer(
        self, key: Hashable, request: Request[Result], run: Run, max_images: int = MAX_BATCH_IMAGES
    ) -> Result:
        """Return what `finish` makes of the request's outputs; raise what its functions raise.

        `run` maps images to outputs, each row on its own. It and `max_images` are
        the same for all requests of a key.
        """
        answered: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        member = _Member(request, answered)
        queue = self._queues.setdefault(key, _Queue())
        if self._may_start(queue, member.caller):
            queue.waiting.served(member.caller)
            self._start(_Batch(key, [member], run, max_images), queue)
        else:
            queue.waiting.add(member.caller, member, part=member.connection)
        return await answered

    def _may_start(self, queue: _Queue[Result], caller: str) -> bool:
        free = self._lanes - queue.running
        return free > 0 or (free == 0 and not queue.callers.get(caller))

    def _start(self, batch: _Batch[Result], queue: _Queue[Result]) -> None:
        loop = asyncio.get_running_loop()

        def end(job: Future[list[Result | Exception]]) -> None:
            with suppress(RuntimeError):  # the loop is gone, and the callers with it
                loop.call_soon_threadsafe(self._end, batch, job)

        try:
            first = batch.members[0]
            work = partial(_work, batch)
            job = self._workers.submit_compute(work, first.caller, first.connection)
        except RuntimeError:  # the server has stopped
            self._cancel(batch, queue)
            return
        queue.running += 1
        for member in batch.members:
            queue.callers[member.caller] = queue.callers.get(member.caller, 0) + 1
        job.add_done_callback(end)

    def _cancel(self, batch: _Batch[Result], queue: _Queue[Result]) -> None:
        """Cancel a batch and those who wait behind it: the server stops."""
        for member in (*batch.members, *queue.waiting):
            member.answered.cancel()
        queue.waiting.clear()
        if not queue.running:
            del self._queues[batch.key]

    def _end(self, batch: _Batch[Result], job: Future[list[Result | Exception]]) -> None:
        """Deliver the outcomes of a batch and start the next."""
        queue = self._queues[batch.key]
        queue.running -= 1
        for member in batch.members:
            queue.callers[member.caller] -= 1
        if job.cancelled():
            self._cancel(batch, queue)
            return
        for member, outcome in zip(batch.members, job.result(), strict=True):
            if member.answered.done():
                continue  # its caller has left
            if isinstance(outcome, Exception):
                member.answered.set_exception(outcome)
            else:
                member.answered.set_result(outcome)
        may_start = partial(self._may_start, queue)
        if following := _take(queue.waiting, may_start, batch.max_images):
            self._start(replace(batch, members=following), queue)
        elif not queue.running:
            del self._queues[batch.key]


def _take(
    waiting: Turns[_Member[Result]], may_start: Callable[[str], bool], max_images: int
) -> list[_Member[Result]]:
    """Take the next batch, without callers that have left."""
    members: list[_Member[Result]] = []
    image_count = 0
    while (caller := waiting.next(may_start)) is not None:
        member = waiting.first(caller)
        if member.answered.done():
            waiting.drop(caller)
            continue
        image_count += member.request.image_count
        if members and image_count > max_images:
            break
        members.append(waiting.take(caller))
    return members


def _work(batch: _Batch[Result]) -> list[Result | Exception]:
    """Answer a batch in a thread; an exception of one request is its own outcome."""
    queries = [_attempt(partial(member.context.run, _prepare, member)) for member in batch.members]
    fitting = [part for part in queries if not isinstance(part, Exception)]
    outputs = iter(_run(fitting, batch.run))
    outcomes: list[Result | Exception] = []
    for member, part in zip(batch.members, queries, strict=True):
        if isinstance(part, Exception):
            outcomes.append(part)
        else:
            finished = _finish(member, next(outputs))
            outcomes.append(finished)
    return outcomes


def _prepare(member: _Member[Result]) -> Floats:
    current_call().add("queue", time.perf_counter() - member.asked)
    current_call().check()
    return member.request.prepare()


def _run(queries: Sequence[Floats], run: Run) -> list[tuple[Floats | Exception, float]]:
    """Run requests together, or one by one if that fails; return outputs and seconds of each."""
    if not queries:
        return []
    together = queries[0] if len(queries) == 1 else np.concatenate(queries)
    start = time.perf_counter()
    outputs = _attempt(partial(run, together))
    seconds = time.perf_counter() - start
    if len(queries) == 1:
        return [(outputs, seconds)]
    if isinstance(outputs, Exception):
        return [outcome for part in queries for outcome in _run([part], run)]
    ends = np.cumsum([len(part) for part in queries])[:-1]
    return [(part, seconds) for part in np.split(outputs, ends)]


def _finish(
    member: _Member[Result], outcome: tuple[Floats | Exception, float]
) -> Result | Exception:
    outputs, seconds = outcome
    if isinstance(outputs, Exception):
        return outputs

    def finish() -> Result:
        current_call().add("compute", seconds)
        with current_call().measure("compute"):
            return member.request.finish(outputs)

    return _attempt(partial(member.context.run, finish))


def _attempt(function: Callable[[], Result]) -> Result | Exception:
    try:
        return function()
    except Exception as error:
        return error
