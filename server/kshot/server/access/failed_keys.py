"""Failed keys of each peer: whoever sends many waits for the answers.

Nobody guesses 256 bits; this keeps those who try from using the server's time and log.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

# After so many within a minute, each further answer waits.
_FREE = 10
_WINDOW_SECONDS = 60.0
_DELAY_SECONDS = 1.0
# The peers that are known, and the answers that wait: of more, the oldest go first.
_MOST_PEERS = 1000
_MOST_WAITING = 256


class FailedKeys:
    """Delays answers to failed keys of one host, on whichever port; for one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[str, deque[float]] = {}
        self._waiting: dict[asyncio.Event, None] = {}

    async def answer_slowly(self, connection: str) -> None:
        """Count a failure, and wait if the host of the connection has had many."""
        if not (seconds := self.count(connection)):
            return
        if len(self._waiting) >= _MOST_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]  # now: many may come before it wakes
            oldest.set()
        hurry = asyncio.Event()
        self._waiting[hurry] = None
        try:
            async with asyncio.timeout(seconds):
                await hurry.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.pop(hurry, None)

    def count(self, connection: str) -> float:
        """Count a failure; return the seconds by which to delay its answer."""
        host, now = _host(connection), self._clock()
        times = self._times.pop(host, None) or deque(maxlen=_FREE + 1)
        times.append(now)
        self._times[host] = times
        if len(self._times) > _MOST_PEERS:
            del self._times[next(iter(self._times))]
        many = len(times) > _FREE and now - times[0] < _WINDOW_SECONDS
        return _DELAY_SECONDS if many else 0.0


def _host(connection: str) -> str:
    """Return a connection without its port, as gRPC names it: `ipv4:127.0.0.1:5`."""
    return connection.rpartition(":")[0] if connection.startswith("ip") else connection
