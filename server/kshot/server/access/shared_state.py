"""What servers of the same tenants must agree on; one server agrees with itself."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

HOUR_SECONDS = 3600.0
# Of an hour's adaptations so many spans are told apart, whatever their number.
_SPANS = 120


class SharedState(Protocol):
    """The use of each tenant: its calls under way, and the seconds that it adapted in an hour.

    A store that several servers share can implement it: what has to ask others is a coroutine, and
    what only tells them returns at once. Turns between callers are no part of it, since they divide
    the threads and engines of one process. Answers to request ids are kept with their models, by
    the store of these.
    """

    async def enter(self, tenant: str, most: int | None) -> bool:
        """Count a call that begins; return False, and count nothing, if `most` are under way."""
        ...

    def leave(self, tenant: str) -> None:
        """Note that a call has ended."""
        ...

    def add_adapt_seconds(self, tenant: str, seconds: float) -> None:
        """Note how long an engine computed."""
        ...

    async def adapt_seconds(self, tenant: str) -> float:
        """Return how long engines computed in the last hour."""
        ...

    async def wait_below(self, tenant: str, most: float) -> float:
        """Return in how many seconds the last hour has less than `most`; 0 if it has now."""
        ...


@dataclass
class _Span:
    """Some adaptations, one after another."""

    began: float
    ended: float
    seconds: float

    def add(self, now: float, seconds: float) -> None:
        self.ended = now
        self.seconds += seconds


class LocalState:
    """The state of one server, forgotten with its process; for one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: Counter[str] = Counter()
        self._adapted: dict[str, deque[_Span]] = {}

    async def enter(self, tenant: str, most: int | None) -> bool:
        """Count a call that begins; return False, and count nothing, if `most` are under way."""
        if most is not None and self._calls[tenant] >= most:
            return False
        self._calls[tenant] += 1
        return True

    def leave(self, tenant: str) -> None:
        """Note that a call has ended."""
        self._calls[tenant] -= 1
        if not self._calls[tenant]:
            del self._calls[tenant]

    def add_adapt_seconds(self, tenant: str, seconds: float) -> None:
        """Note how long an engine computed."""
        if seconds <= 0:
            return
        now, spans = self._clock(), self._last_hour(tenant)
        if spans and now - spans[-1].began < HOUR_SECONDS / _SPANS:
            spans[-1].add(now, seconds)
        else:
            spans.append(_Span(now, now, seconds))
        self._adapted[tenant] = spans

    async def adapt_seconds(self, tenant: str) -> float:
        """Return how long engines computed in the last hour."""
        return sum(span.seconds for span in self._last_hour(tenant))

    async def wait_below(self, tenant: str, most: float) -> float:
        """Return in how many seconds the last hour has less than `most`; 0 if it has now."""
        spans = self._last_hour(tenant)
        left, wait = sum(span.seconds for span in spans), 0.0
        for span in spans:
            if left < most:
                break
            left -= span.seconds
            wait = span.ended + HOUR_SECONDS - self._clock()
        return wait

    def _last_hour(self, tenant: str) -> deque[_Span]:
        spans = self._adapted.get(tenant, deque[_Span]())
        since = self._clock() - HOUR_SECONDS
        while spans and spans[0].ended <= since:
            spans.popleft()
        if not spans:
            self._adapted.pop(tenant, None)
        return spans
