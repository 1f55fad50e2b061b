"""What is known of the call that runs: for its log line and its timing split."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

PHASES = ("queue", "decode", "compute", "store")


@dataclass
class Call:
    """One call from its arrival to its log line; times in seconds."""

    method: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    model: str = ""
    adapted_model: str = ""
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    def add(self, phase: str, seconds: float) -> None:
        """Count time to a phase."""
        self.seconds[phase] += max(0.0, seconds)

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)


_CALL: ContextVar[Call] = ContextVar("kshot_call")


def current_call() -> Call:
    """Return the call that this task serves."""
    return _CALL.get()


def begin_call(method: str) -> Call:
    """Make the call that this task serves from now on."""
    call = Call(method)
    _CALL.set(call)
    return call
