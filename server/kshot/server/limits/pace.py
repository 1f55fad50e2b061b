"""Large messages that are refused: their sender waits before further ones are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# Smaller messages take next to nothing and cannot hold much; the number of calls bounds them.
LARGE_BYTES = 2**16
# Reading 16 MB keeps others from the event loop for about 15 ms. A caller may have so many bytes
# refused at once, and then so many a second.
_BURST_BYTES, _BYTES_PER_SECOND = 2**26, 2**23
# Many messages may be refused at once, and not all of them for what their sender did.
_LONGEST_SECONDS = 4.0


@dataclass
class _Debt:
    paid: float
    """When all is paid, in the loop's time."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pace:
    """Lets callers pay with time for refused messages; for one event loop."""

    def __init__(self, burst: int = _BURST_BYTES, rate: int = _BYTES_PER_SECOND) -> None:
        """Let `burst` bytes be refused at once, and `rate` bytes a second."""
        self._rate = rate
        self._free_seconds = burst / rate
        self._debts: dict[str, _Debt] = {}

    def charge(self, caller: str, size_bytes: int) -> None:
        """Note that a message was refused."""
        if size_bytes <= LARGE_BYTES:
            return
        now = asyncio.get_running_loop().time()
        debts = self._debts.items()
        self._debts = {each: debt for each, debt in debts if debt.paid > now or debt.turn.locked()}
        debt = self._debts.setdefault(caller, _Debt(now))
        paid = max(now, debt.paid) + size_bytes / self._rate
        debt.paid = min(paid, now + self._free_seconds + _LONGEST_SECONDS)

    def refund(self, caller: str, size_bytes: int) -> None:
        """Take a charge back: the message was not refused."""
        if caller in self._debts and size_bytes > LARGE_BYTES:
            self._debts[caller].paid -= size_bytes / self._rate

    def owes(self, caller: str) -> bool:
        """Tell whether a caller has to wait, or to get in line."""
        debt = self._debts.get(caller)
        return debt is not None and (debt.turn.locked() or self._wait(debt) > 0)

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait until a caller who owes has paid; the block is for one of his calls at a time."""
        debt = self._debts[caller]
        async with debt.turn:
            while (seconds := self._wait(debt)) > 0:
                await asyncio.sleep(seconds)
            yield

    def _wait(self, debt: _Debt) -> float:
        return debt.paid - self._free_seconds - asyncio.get_running_loop().time()
