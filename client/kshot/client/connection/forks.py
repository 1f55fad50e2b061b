"""Forks: gRPC rests while the process forks, so that a child can make a client of its own.

A child that is forked amid calls has gRPC's locks as other threads held them: it hangs, at times
past its deadlines. So may one of a process that runs a gRPC server too: gRPC never rests there, and
skips what it does at forks; such a process has to use the method `spawn`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from kshot.client.errors import InputError

_MOST_SECONDS = 2.0


class CallGate:
    """Counts the calls under way; a fork holds new ones back and waits a while for the others.

    `broken` tells a child that calls were under way nevertheless, `without_loops` that gRPC is of
    no use to event loops there: the thread that serves them, once there was a call, stays behind.
    """

    def __init__(self) -> None:
        self.broken = False
        self.without_loops = False
        self._loops = False
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._calls = Counter[int]()  # by thread
        self._forks = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Let a call begin, and note its end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            thread = self._begin()
        try:
            yield
        finally:
            self.end(thread)

    async def begin(self) -> int:
        """Let a call of an event loop begin, without blocking it; return what `end` takes."""
        while True:
            with self._changed:
                if not self._forks:
                    self._loops = True
                    return self._begin()
            await asyncio.to_thread(self._await_open)

    def end(self, thread: int) -> None:
        """Note the end of a call that a thread began."""
        with self._changed:
            self._calls[thread] -= 1
            self._changed.notify_all()

    def _begin(self) -> int:
        thread = threading.get_ident()
        self._calls[thread] += 1
        return thread

    def _await_open(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)

    def close(self) -> None:
        """Hold back new calls, and wait until none is under way, but those of this thread."""
        own = threading.get_ident()
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._calls.total() == self._calls[own], _MOST_SECONDS)

    def open(self) -> None:
        """Let calls through again."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def forked(self) -> None:
        """Begin anew in a child: threads that are gone may hold the locks."""
        self.broken = self.broken or self._calls.total() > 0
        self.without_loops = self._loops
        self._reset()


GATE = CallGate()


@cache
def watch_forks() -> None:
    """Let forks of this process and of its children pass through the gate."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=GATE.close, after_in_parent=GATE.open, after_in_child=GATE.forked
        )


def check_process(address: str, maker: int | None = None) -> None:
    """Raise `InputError` in a process that cannot make calls, or whose client another one made."""
    if GATE.broken:
        raise InputError(
            f"cannot call {address}: this process was forked amid calls of its parent; start it by "
            "the method `spawn` or `forkserver` of multiprocessing, or fork between calls"
        )
    if maker is not None and maker != os.getpid():
        raise InputError(
            f"cannot call {address}: this client belongs to process {maker}, which forked this one "
            f"({os.getpid()}); make a new one here: Client({address!r}), and .get(id) for models"
        )


def check_loops(address: str) -> None:
    """Raise `InputError` where event loops cannot call: it would hang."""
    if GATE.without_loops:
        raise InputError(
            f"cannot call {address}: this process was forked by one that used an AsyncClient; make "
            "a Client here, or start it by the method `spawn` or `forkserver` of multiprocessing"
        )
