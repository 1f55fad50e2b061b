"""The store's clock: the wall clock without its jumps, so that a wrong time deletes nothing.

Times to live are counted by a clock that nobody sets. While a machine runs, that is the time since
it booted: where the wall clock gains or loses more than `TOLERANCE` against it, between two looks
or two starts, the difference is skipped. Smaller corrections are followed. Across a reboot nothing
tells a wrong clock from a long stop: the wall clock counts, but a step back counts as no time, and
a step ahead as `LONGEST_STOP` at most. So a jump expires nothing that is young, and nothing lives
forever: each second that a machine runs counts.

Times on the wire are wall times: what is skipped is added to them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kshot.server.event_log import log_event
from kshot.server.store.tables.rows import Seen

TOLERANCE = 60.0
LONGEST_STOP = 24 * 3600.0

Clock = Callable[[], float]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StoreClock:
    """Seconds since 1970 as the store counts them; any thread may ask."""

    def __init__(self, seen: Seen | None, wall: Clock, elapsed: Clock, boot: str) -> None:
        """Go on from what was `seen` last; `elapsed` never jumps while `boot` is the same."""
        self._wall, self._elapsed, self._boot = wall, elapsed, boot
        self._lock = threading.Lock()
        self._last = wall(), elapsed()
        self.skipped = 0.0
        if seen is not None:
            self.skipped = seen.skipped
            passed = self._last[0] - seen.wall
            if seen.boot == boot and boot:
                self._skip(passed - (self._last[1] - seen.elapsed))
            else:
                self._skip(passed - min(max(passed, 0.0), LONGEST_STOP))

    @classmethod
    def of_machine(cls, seen: Seen | None) -> StoreClock:
        """Return the clock of this machine."""
        return cls(seen, time.time, _since_boot, _boot_id())

    def now(self) -> float:
        """Return the store's time."""
        with self._lock:
            wall, elapsed = self._wall(), self._elapsed()
            gained = (wall - self._last[0]) - (elapsed - self._last[1])
            self._last = wall, elapsed
            if abs(gained) > TOLERANCE:
                self._skip(gained)
            return wall - self.skipped

    def seen(self) -> Seen:
        """Return what a later start needs to know."""
        with self._lock:
            return Seen(self._boot, *self._last, self.skipped)

    def _skip(self, gained: float) -> None:
        if abs(gained) > TOLERANCE:
            self.skipped += gained
            log_event("clock_jumped", logging.WARNING, seconds=round(gained, 3))


def _since_boot() -> float:
    """Return the seconds since the machine booted, those of its sleep included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _boot_id() -> str:
    """Name the machine's current boot, "" where it has no name."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
