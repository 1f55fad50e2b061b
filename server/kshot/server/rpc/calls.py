"""The calls of the port from their first byte to their last: how many, and for how long."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import IntEnum, auto
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import grpc

from kshot.server.call_context import Call
from kshot.server.errors import InvalidRequest, QueueFull, RequestError, TooManyCalls
from kshot.server.event_log import log_event
from kshot.server.limits.pace import Pace
from kshot.server.rpc.ending import end_call

Context = grpc.aio.ServicerContext[Any, Any]
Refuse = Callable[[Call, Context, RequestError], Coroutine[Any, Any, NoReturn]]

# Calls of one kind whose message has not come whole; the oldest of more end.
_MOST_UNREAD = 1024
# A message that is not whole after so many looks is slow; the bytes of slow ones are bounded. A
# server that is slow itself looks as rarely as it reads, so it takes no message for slow.
_SLOW_LOOKS = 16
_SLOW_BYTES = 2**30
# Ending more calls at a time would hold up the others: ten take about 3 ms.
_ENDS_AT_ONCE = 10
_TICK_SECONDS, _IDLE_TICK_SECONDS = 0.03, 0.25
# An answer of this many bytes may take another second.
_SLOWEST_BYTES = 250_000


class Kind(IntEnum):
    """Calls of one kind never take the places of another."""

    OWN = auto()
    STANDARD = auto()
    """Health and reflection."""


@dataclass(frozen=True)
class CallLimits:
    """Calls of one connection by their kind; seconds for a whole message, and for an answer."""

    connection_calls: dict[Kind, int]
    message_bytes: int
    message_seconds: float
    answer_seconds: float


@dataclass(eq=False)
class OpenCall:
    """A call; `until` is when its present phase has taken too long, in the loop's time.

    `looks` counts how often its message was found on its way; `ending` refuses it meanwhile.
    """

    call: Call
    context: Context
    kind: Kind
    handler: asyncio.Task[Any]
    until: float = math.inf
    looks: int | None = None
    sending: bool = False
    counted: bool = True
    ending: asyncio.Task[NoReturn] | None = field(default=None, repr=False)

    @property
    def key(self) -> tuple[Kind, str]:
        """Return what its connection's calls are counted by."""
        return self.kind, self.call.connection


class OpenCalls:
    """Counts, bounds and times the calls of every connection; for one event loop.

    `refuse` answers a call with an error.
    """

    def __init__(self, limits: CallLimits, refuse: Refuse) -> None:
        self._limits = limits
        self._refuse = refuse
        self._open: dict[OpenCall, None] = {}
        self._unread: dict[Kind, dict[OpenCall, None]] = {kind: {} for kind in Kind}
        self._connections: Counter[tuple[Kind, str]] = Counter()
        self._most_slow = max(8, _SLOW_BYTES // limits.message_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._pace = Pace()

    def begin(self, call: Call, context: Context, kind: Kind) -> OpenCall:
        """Count a call until its answer is sent; raise `TooManyCalls`."""
        handler = asyncio.current_task()
        assert handler is not None  # noqa: S101 -- gRPC runs handlers in tasks
        opened = OpenCall(call, context, kind, handler)
        key = opened.key
        count = self._connections.get(key, 0)
        if count >= self._limits.connection_calls[kind]:
            raise TooManyCalls
        self._connections[key] = count + 1
        self._open[opened] = None
        call.held = []
        handler.add_done_callback(partial(self._sent, opened))
        if self._timer is None:
            self._timer = handler.get_loop().call_later(_TICK_SECONDS, self._look)
        return opened

    async def read(self, opened: OpenCall) -> bytes | None:
        """Return the next message of a call, None if there is none.

        Raises what `refuse` does if the message does not come in time, or others need its room.
        """
        unread, call = self._unread[opened.kind], opened.call
        if len(unread) >= _MOST_UNREAD:
            self._end_unread(next(iter(unread)), QueueFull())
        unread[opened] = None
        try:
            if opened.kind is Kind.OWN and self._pace.owes(call.connection):
                async with self._pace.turn(call.connection):
                    content = None if opened.ending else await self._read(opened)
                    self._charge(call)
            else:
                content = await self._read(opened)
        finally:
            opened.until, opened.looks = math.inf, None
            unread.pop(opened, None)
            if opened.ending is not None:
                await opened.ending
        return content

    def step_aside(self, opened: OpenCall) -> None:
        """Count a call no more: others may have its place while its answer waits."""
        if opened.counted:
            opened.counted = False
            self._connections[opened.key] -= 1
            if not self._connections[opened.key]:
                self._connections.pop(opened.key)

    def refused(self, call: Call) -> None:
        """Note that a call is refused or given up: its caller's next message may have to wait."""
        if not call.charged:
            self._charge(call)

    def accepted(self, call: Call) -> None:
        """Note that a call is answered: its message costs nothing."""
        if call.charged:
            self._pace.refund(call.connection, call.message_bytes)

    def _charge(self, call: Call) -> None:
        self._pace.charge(call.connection, call.message_bytes)
        call.charged = True

    async def _read(self, opened: OpenCall) -> bytes | None:
        opened.looks = 0
        opened.until = opened.handler.get_loop().time() + self._limits.message_seconds
        # Never cancel this: gRPC would lose the bytes of a message that comes meanwhile.
        content: Any = await opened.context.read()
        if content is grpc.aio.EOF:
            return None
        opened.call.message_bytes = len(content)
        return bytes(content)

    def send(self, opened: OpenCall, size_bytes: int) -> None:
        """Note that the call now sends; it ends if its client does not read."""
        opened.sending = True
        seconds = self._limits.answer_seconds + size_bytes / _SLOWEST_BYTES
        opened.until = opened.handler.get_loop().time() + seconds

    def go_on(self, opened: OpenCall) -> None:
        """Note that what the call sent has left."""
        opened.sending, opened.until = False, math.inf

    def _sent(self, opened: OpenCall, _handler: object) -> None:
        del self._open[opened]
        self.step_aside(opened)
        opened.call.sent()

    def _look(self) -> None:
        """End the calls that take too long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = list(islice((each for each in self._open if each.until < now), _ENDS_AT_ONCE))
        for opened in late:
            if opened.sending:
                opened.until = math.inf
                ended = end_call(opened.handler)
                log_event("answer_unread", request_id=opened.call.request_id, ended=ended)
            else:
                seconds = self._limits.message_seconds
                problem = f"expected the whole message within {seconds:g} s, got less"
                self._end_unread(opened, InvalidRequest.about("request", problem))
        for unread in self._unread.values():
            for opened in unread:
                if opened.looks is not None:
                    opened.looks += 1
            self._make_way([opened for opened in unread if (opened.looks or 0) > _SLOW_LOOKS])
        self._timer = None
        if self._open:
            soon = late or any(self._unread.values())
            self._timer = loop.call_later(_TICK_SECONDS if soon else _IDLE_TICK_SECONDS, self._look)

    def _make_way(self, slow: list[OpenCall]) -> None:
        """End slow messages above the limit: the oldest of the connections with the most."""
        of_caller: dict[str, deque[OpenCall]] = {}
        for opened in slow:
            of_caller.setdefault(opened.call.connection, deque()).append(opened)
        for _ in range(min(len(slow) - self._most_slow, _ENDS_AT_ONCE)):
            most = max(of_caller.values(), key=len)
            self._end_unread(most.popleft(), QueueFull())

    def _end_unread(self, opened: OpenCall, error: RequestError) -> None:
        """Refuse a call whose message has not come."""
        opened.until = math.inf
        self._unread[opened.kind].pop(opened, None)
        if opened.ending is None:
            refusal = self._refuse(opened.call, opened.context, error)
            opened.ending = asyncio.ensure_future(refusal)
            opened.ending.add_done_callback(lambda done: done.cancelled() or done.exception())
