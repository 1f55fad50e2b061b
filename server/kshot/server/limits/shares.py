"""Room that callers share, so that none of them can take it all."""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Shares:
    """Divides `total` units between callers; for one event loop.

    A caller that holds more than what is free gets no more. One greedy caller ends with half, `k`
    of them with the `(k + 1)`-th part each, and a new one finds room (dynamic thresholds; Choudhury
    and Hahne, 1998). `most` bounds each caller besides.
    """

    def __init__(self, total: int, most: int | None = None) -> None:
        self.total = total
        self._most = total if most is None else most
        self._free = total
        self._held: Counter[str] = Counter()
        self._waiting: deque[tuple[str, int, asyncio.Future[None]]] = deque()

    @property
    def taken(self) -> int:
        """Return the units that are taken."""
        return self.total - self._free

    @property
    def waiting(self) -> bool:
        """Tell whether a caller waits for room."""
        return bool(self._waiting)

    def held(self, caller: str) -> int:
        """Return the units that a caller holds."""
        return self._held[caller]

    def try_take(self, caller: str, amount: int = 1) -> bool:
        """Take units if they are free and the caller does not hold too many; return whether."""
        held = self._held[caller]
        if amount > self._free or held > self._free or held + amount > self._most:
            if not held:
                del self._held[caller]
            return False
        self._move(caller, amount)
        return True

    async def take(self, caller: str, amount: int = 1) -> None:
        """Take units as soon as that is possible; those of one caller in order of arrival."""
        first = all(caller != waiting for waiting, _, _ in self._waiting)
        if first and self.try_take(caller, amount):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((caller, amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came together with the end of the call
                self.give(caller, amount)
            else:
                self._next()
            raise

    def give(self, caller: str, amount: int = 1) -> None:
        """Give units back."""
        self._move(caller, -amount)
        self._next()

    def _next(self) -> None:
        """Give room to those that wait, except behind one of the same caller."""
        left: deque[tuple[str, int, asyncio.Future[None]]] = deque()
        behind: set[str] = set()
        for caller, amount, turn in self._waiting:
            if turn.done():
                continue
            if caller not in behind and self.try_take(caller, amount):
                turn.set_result(None)
            else:
                behind.add(caller)
                left.append((caller, amount, turn))
        self._waiting = left

    def _move(self, caller: str, amount: int) -> None:
        self._free -= amount
        self._held[caller] += amount
        if not self._held[caller]:
            del self._held[caller]
