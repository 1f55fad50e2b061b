"""Work that several calls wait for, as a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kshot.server.call_context import Call, current_call, serve_call

Result = TypeVar("Result")


class SharedWork(Generic[Result]):
    """Begins work for the current call, which others may wait for too.

    It is cancelled when all of them have left. Work that is `lasting` has no deadline and goes on
    without them.
    """

    def __init__(self, work: Callable[[], Awaitable[Result]], *, lasting: bool = False) -> None:
        self._call = current_call().shared()
        if lasting:
            self._call.deadline = None
        self._lasting = lasting
        self._waiting = 0
        self.task = asyncio.ensure_future(self._serve(work))
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def wait(self, call: Call, *, own: bool) -> Result | None:
        """Return the result, None if the work was given up; raise what it raises.

        The time counts as `queue`, except for the call whose `own` work it is.
        """
        self._call.extend(call)
        self._waiting += 1
        before = call.seconds["queue"]
        try:
            with call.measure("queue"):
                await asyncio.wait([self.task])
        finally:
            self._waiting -= 1
            if not self._waiting and not self._lasting:
                self.task.cancel()
            if own:
                call.seconds["queue"] = before
                for phase, seconds in self._call.seconds.items():
                    call.add(phase, seconds)
            call.model, call.adapted_model = self._call.model, self._call.adapted_model
        if self.task.cancelled() and not own:
            return None
        return self.task.result()

    async def _serve(self, work: Callable[[], Awaitable[Result]]) -> Result:
        serve_call(self._call)
        try:
            return await work()
        finally:
            self._call.ended = True
