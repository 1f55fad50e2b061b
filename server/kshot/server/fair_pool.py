"""Threads whose jobs are taken from callers in turn; long jobs let others go first."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar

from kshot.bundle.turns import Turns

Result = TypeVar("Result")

# A job that has run for so long lets those of other callers go first.
PART_SECONDS = 0.005
# Who gave a job in the last seconds is around: others leave a core to him.
AROUND_SECONDS = 1.0
_FEW_CALLERS = 64


@dataclass(eq=False)
class _Job:
    pool: FairPool
    caller: str
    function: Callable[[], Any]
    part: str = ""
    done: Future[Any] = field(default_factory=Future)
    go_on: threading.Event | None = None
    """Ends the pause of a job that has begun."""
    began: float = 0.0

    def run(self) -> Callable[[], None]:
        """Do the job; return what tells its outcome."""
        self.began = time.perf_counter()
        _THREAD.job = self
        try:
            return partial(self.done.set_result, self.function())
        except BaseException as error:
            return partial(self.done.set_exception, error)
        finally:
            _THREAD.job = None


_THREAD = threading.local()


def give_way() -> None:
    """Let jobs of other callers go first, if this thread's job has run for long; it then goes on.

    Called between the parts of long work, without a lock that other jobs wait for.
    """
    job: _Job | None = getattr(_THREAD, "job", None)
    if job is not None and time.perf_counter() - job.began > PART_SECONDS:
        job.pool.pause(job)


@contextmanager
def aside() -> Iterator[None]:
    """Hold no place of the pool inside the block, where this thread only waits; then get one.

    Without a lock that other jobs wait for.
    """
    job: _Job | None = getattr(_THREAD, "job", None)
    if job is None:
        yield
        return
    _THREAD.job = None
    job.pool.step_aside(job)
    try:
        yield
    finally:
        job.pool.come_back(job)
        _THREAD.job = job


class FairPool:
    """Runs jobs of callers in turn, `size` at a time.

    One more may run: that of a caller who has none running. While others are around, a caller has
    one less: few wake in time where all cores compute. So no single caller keeps others
    waiting, however long his jobs are.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._names = (f"{name}_{number}" for number in count())
        self._idle_threads = 0
        self._begun: SimpleQueue[_Job | None] = SimpleQueue()  # None ends a thread
        self._lock = threading.Lock()
        self._turns: Turns[_Job] = Turns()
        self._running: Counter[str] = Counter()
        self._running_count = 0
        self._asked: dict[str, float] = {}  # when callers gave their last jobs
        self._closed = False

    def submit(self, caller: str, function: Callable[[], Result], part: str = "") -> Future[Result]:
        """Queue a job; raises `RuntimeError` after `close`.

        The parts of a caller, as its connections, take turns too.
        """
        job = _Job(self, caller, function, part)
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._note(caller)
            if not self._turns and self._may_start(caller):
                self._turns.served(caller)
                job.done.set_running_or_notify_cancel()
                self._begin(job)
            else:
                self._turns.add(caller, job, part=part)
                self._start()
        return job.done

    def pause(self, job: _Job) -> None:
        """Let a job of others go first if one waits; for the thread of the job."""
        with self._lock:
            job.began = time.perf_counter()
            if self._closed or not self._turns.others_wait(job.caller, job.part):
                return
            self._leave(job)
            go_on = self._ask_again(job)
        go_on.wait()
        job.began = time.perf_counter()

    def step_aside(self, job: _Job) -> None:
        """Give up the place of a job that goes on elsewhere; for the thread of the job."""
        with self._lock:
            self._leave(job)
            self._start()

    def come_back(self, job: _Job) -> None:
        """Wait for a place again, before the other jobs of its part."""
        with self._lock:
            if self._closed:
                self._enter(job)
                return
            go_on = self._ask_again(job)
        go_on.wait()
        job.began = time.perf_counter()

    def close(self) -> None:
        """Drop the jobs that wait, let those that have begun end, and accept no more."""
        with self._lock:
            self._closed = True
            waiting = self._turns.clear()
            for job in waiting:
                if job.go_on is not None:
                    self._enter(job)
                    job.go_on.set()
        for job in waiting:
            if job.go_on is None:
                job.done.cancel()
        self._begun.put(None)

    def _ask_again(self, job: _Job) -> threading.Event:
        """Queue a job that has begun, before the others of its part."""
        job.go_on = threading.Event()
        self._turns.add(job.caller, job, part=job.part, first=True)
        self._start()
        return job.go_on

    def _may_start(self, caller: str) -> bool:
        running, own = self._running_count, self._running.get(caller, 0)
        if running >= self._size:
            return running == self._size and not own
        return own < max(1, self._size - 1) or not self._others_are_around(caller)

    def _note(self, caller: str) -> None:
        now = time.perf_counter()
        if len(self._asked) > _FEW_CALLERS:
            asked = self._asked.items()
            self._asked = {other: at for other, at in asked if now - at < AROUND_SECONDS}
        self._asked[caller] = now

    def _others_are_around(self, caller: str) -> bool:
        since = time.perf_counter() - AROUND_SECONDS
        return any(at > since for other, at in self._asked.items() if other != caller)

    def _start(self) -> None:
        """Give free places to the jobs whose turn it is."""
        while (job := self._take()) is not None:
            if job.go_on is not None:
                self._enter(job)
                job.go_on.set()
            else:
                self._begin(job)

    def _take(self) -> _Job | None:
        """Take the next job that may run, without those whose callers have left."""
        while (caller := self._turns.next(self._may_start)) is not None:
            job = self._turns.first(caller)
            if job.go_on is None and not job.done.set_running_or_notify_cancel():
                self._turns.drop(caller)
                continue
            return self._turns.take(caller)
        return None

    def _begin(self, job: _Job) -> None:
        """Give a place and a thread to a job; threads of paused jobs are further ones.

        It fails if the system has no further thread.
        """
        if self._idle_threads:
            self._idle_threads -= 1
        else:
            thread = threading.Thread(target=self._work, name=next(self._names), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                job.done.set_exception(error)
                return
        self._enter(job)
        self._begun.put(job)

    def _work(self) -> None:
        while (job := self._begun.get()) is not None:
            tell = job.run()
            with self._lock:
                self._leave(job)
                self._idle_threads += 1
                self._start()
            tell()  # last: whoever it wakes would only wait for the GIL, which this thread holds
            del job, tell  # with what they hold
        self._begun.put(None)

    def _enter(self, job: _Job) -> None:
        self._running_count += 1
        self._running[job.caller] = self._running.get(job.caller, 0) + 1

    def _leave(self, job: _Job) -> None:
        self._running_count -= 1
        self._running[job.caller] -= 1
        if not self._running[job.caller]:
            self._running.pop(job.caller)
