"""What all finished calls came to: counts, times and buckets by method, code and reason."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kshot.server.call_context import PHASES, Call

# Seconds. A Predict takes half a millisecond, a tail of many examples a minute.
BOUNDS = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 20.0, 60.0),
)
TOTAL = "total"
TIMES = (*PHASES, TOTAL)


class Outcome(NamedTuple):
    """How a call of a method ended; `reason` is empty for `OK`."""

    method: str
    code: str
    reason: str


@dataclass(eq=False)
class Times:
    """How long calls took: `counts` by bucket, the last beyond all bounds, and the sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one call."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def copy(self) -> Times:
        """Return what does not change any more."""
        return Times(self.counts.copy(), self.seconds)

    @staticmethod
    def of(parts: Sequence[Times]) -> Times:
        """Return the calls of several together."""
        counts = [sum(column) for column in zip(*(part.counts for part in parts), strict=True)]
        return Times(counts, sum(part.seconds for part in parts))


class FinishedCalls:
    """Counts each call once it has ended: called on the event loop, read in any thread."""

    def __init__(self) -> None:
        self._outcomes: dict[Outcome, tuple[Times, ...]] = {}
        self._tenants: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, call: Call, code: str, reason: str = "") -> None:
        """Count a call that has just ended; this takes a few microseconds."""
        total = time.perf_counter() - call.started
        outcome = Outcome(call.method, code, reason)
        with self._lock:
            times = self._outcomes.get(outcome)
            if times is None:
                times = self._outcomes[outcome] = tuple(Times() for _ in TIMES)
            for each, seconds in zip(times, call.seconds.values(), strict=False):
                each.add(seconds)
            times[-1].add(total)
            self._tenants[call.tenant] += 1

    def outcomes(self) -> Mapping[Outcome, Mapping[str, Times]]:
        """Return the times of calls by outcome and by phase, `TOTAL` among them."""
        with self._lock:
            return {
                outcome: {name: each.copy() for name, each in zip(TIMES, times, strict=True)}
                for outcome, times in self._outcomes.items()
            }

    def tenants(self) -> Mapping[str, int]:
        """Return how many calls each tenant had, those seen first first."""
        with self._lock:
            return dict(self._tenants)
