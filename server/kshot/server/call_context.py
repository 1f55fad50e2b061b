"""The current call: its deadline, whether it has ended, its timing split."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from kshot.server.errors import CallCancelled, DeadlineExceeded
from kshot.server.fair_pool import give_way
from kshot.server.progress import Progress

# A call that ends this close to its deadline was ended by it: timers are not exact, and a timeout
# travels with two or three digits, rounded up.
_SLACK_SECONDS = 0.05
_SLACK_SHARE = 0.01

# Of a caller's time, what is kept to store and send a model that is made: a share, and seconds at
# least.
_KEPT_SHARE, _KEPT_SECONDS = 0.2, 0.3

PHASES = ("queue", "decode", "compute", "store")
# Of a call that does more, a trace shows the beginning.
_MOST_PARTS = 32


@dataclass
class Call:
    """One call from its arrival to its log line; times in seconds.

    `caller` names who asks, in any form: calls of different callers take turns. It is the tenant of
    the key on a server with keys, else the connection; `admin` is the key's role, `key` its prefix.
    `deadline` is on the clock of `time.monotonic`, None if the caller set none. `ended` tells the
    threads that work for the call to stop.
    """

    method: str
    caller: str = ""
    connection: str = ""
    tenant: str = ""
    admin: bool = False
    key: str = ""
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    model: str = ""
    adapted_model: str = ""
    subject: str = ""
    """The tenant that an administrator's call is about."""
    changes: Mapping[str, str] = field(default_factory=dict)
    """What an administrator's call changed, for the audit log."""
    deadline: float | None = None
    slack: float = _SLACK_SECONDS
    ended: bool = False
    message_bytes: int = 0
    """Bytes of the message."""
    charged: bool = False
    """Whether its caller was charged for the message."""
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    engine_seconds: float = 0.0
    """How long engines computed for it, or had tasks of it that did not end well."""
    support_warnings: list[str] = field(default_factory=list)
    """Sentences for the caller about the support set: any part of the work may append some."""
    query_warnings: list[str] = field(default_factory=list)
    """The same about the queries."""
    progress: Progress | None = None
    """How far its adaptation is; None where nobody asks."""
    traceparent: str = ""
    """The W3C header by which further work belongs to this call's trace; empty without a trace."""
    parts: list[tuple[str, float, float]] | None = None
    """The first parts of phases, by their end and seconds, for a trace; None where nobody asks."""
    finished: Callable[[Call, str, str], None] | None = None
    """Counts the call by code and reason once it has ended."""
    held: list[Callable[[], None]] | None = None
    """What the call gives back once its answer is sent; None where nobody calls `sent`."""

    @property
    def trace_id(self) -> str:
        """Return the id of the call's trace, 32 hexadecimal digits; empty without one."""
        return self.traceparent[3:35]

    def sent(self) -> None:
        """Give back what the call holds: its answer is sent, or nobody will read it."""
        held, self.held = self.held, None
        for give_back in held or ():
            give_back()

    def shared(self) -> Call:
        """Return a call for work that others may wait for too, and that may outlive this one."""
        fresh = Call(self.method)
        return replace(
            self,
            ended=False,
            held=None,
            seconds=fresh.seconds,
            engine_seconds=0.0,
            support_warnings=fresh.support_warnings,
            query_warnings=fresh.query_warnings,
        )

    def extend(self, other: Call) -> None:
        """Give this call the other's deadline if that comes later."""
        if self.deadline is None or other.deadline is None:
            self.deadline = None
        elif other.deadline > self.deadline:
            self.deadline, self.slack = other.deadline, other.slack

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, negative after it, None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def timed_out(self) -> bool:
        """Tell whether the deadline has come, or is so near that it ended the call."""
        remaining = self.remaining()
        return remaining is not None and remaining <= self.slack

    def check(self) -> None:
        """Raise `DeadlineExceeded` or `CallCancelled` if nobody waits for the answer.

        In a thread, work of other callers goes first where this has run for long: hold no lock.
        """
        give_way()
        remaining = self.remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded
        if self.ended:
            raise CallCancelled

    def add(self, phase: str, seconds: float) -> None:
        """Add time to a phase."""
        self.seconds[phase] += max(0.0, seconds)
        if self.parts is not None and len(self.parts) < _MOST_PARTS:
            self.parts.append((phase, time.perf_counter(), seconds))

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)

    @contextmanager
    def side_by_side(self) -> Iterator[None]:
        """Shorten what the block adds, by parts that overlap, to the time that it takes."""
        before, start = dict(self.seconds), time.perf_counter()
        try:
            yield
        finally:
            added = {phase: self.seconds[phase] - before[phase] for phase in PHASES}
            passed, total = time.perf_counter() - start, sum(added.values())
            if total > passed:
                for phase in PHASES:
                    self.seconds[phase] = before[phase] + added[phase] * passed / total


_CALL: ContextVar[Call] = ContextVar("kshot_call")


def current_call() -> Call:
    """Return the call that this task serves."""
    return _CALL.get()


def current_caller() -> str:
    """Return who asks for what this task does; empty for what the server does by itself."""
    call = _CALL.get(None)
    return "" if call is None else call.caller


def current_connection() -> str:
    """Return the connection of this task's call; empty for what the server does by itself."""
    call = _CALL.get(None)
    return "" if call is None else call.connection


def until_sent(give_back: Callable[[], None]) -> None:
    """Give something back once this call's answer is sent, or now where nobody tells of that."""
    call = _CALL.get(None)
    if call is None or call.held is None:
        give_back()
    else:
        call.held.append(give_back)


def note_changes(changes: Mapping[str, str]) -> None:
    """Have the audit line of this task's call say what it changed."""
    if (call := _CALL.get(None)) is not None:
        call.changes = changes


@contextmanager
def counting_failed_tasks() -> Iterator[None]:
    """Count the block's seconds as the engine's if it raises: only answers tell their own."""
    call, start = _CALL.get(None), time.perf_counter()
    try:
        yield
    except BaseException:
        if call is not None:
            call.engine_seconds += time.perf_counter() - start
        raise


def current_tenant() -> str:
    """Return the tenant of this task's call; empty on a server without keys."""
    call = _CALL.get(None)
    return "" if call is None else call.tenant


def current_progress() -> Progress | None:
    """Return what hears how far this task's adaptation is; None where nobody asks."""
    call = _CALL.get(None)
    return None if call is None else call.progress


def current_traceparent() -> str:
    """Return the header that continues this task's trace; empty without one."""
    call = _CALL.get(None)
    return "" if call is None else call.traceparent


def begin_call(method: str, remaining: float | None = None, caller: str = "") -> Call:
    """Begin the call that this task serves; its deadline is in `remaining` seconds."""
    call = Call(method, caller, caller)
    if remaining is not None:
        call.deadline = time.monotonic() + remaining
        call.slack += _SLACK_SHARE * max(0.0, remaining)
    _CALL.set(call)
    return call


def serve_call(call: Call) -> None:
    """Let this task serve a call."""
    _CALL.set(call)


def seconds_to_spare(remaining: float | None) -> float | None:
    """Return how many of a caller's seconds may go into making a model better; None if unlimited.

    Negative if what remains is needed to store and send it.
    """
    if remaining is None:
        return None
    return remaining - max(_KEPT_SECONDS, _KEPT_SHARE * remaining)
