"""How many engines a machine has room for, and how many give the best throughput."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from kshot.bundle.memory import available_bytes

_CGROUP = Path("/sys/fs/cgroup")
# Of an engine, and of what its first tasks need.
_ENGINE_BYTES = 768 * 2**20


@dataclass(frozen=True)
class Share:
    """Seconds of processor time of one adaptation: in an engine, in the front, in its event loop.

    The event loop's are part of the front's. Where it was not `quiet`, the work of others is in it.
    """

    engine: float
    front: float
    loop: float
    quiet: bool = True

    def milliseconds(self) -> dict[str, float]:
        """Return the parts in milliseconds, for the log."""
        parts = {"engine_ms": self.engine, "front_ms": self.front, "event_loop_ms": self.loop}
        return {name: round(1e3 * seconds, 1) for name, seconds in parts.items()}


def best_count(share: Share, cores: float) -> int:
    """Return the least number of engines that keeps either all cores or the event loop busy.

    With n engines at most `n / engine` adaptations a second are computed; the cores allow
    `cores / (engine + front)` and the event loop `1 / loop`.
    """
    most = cores / (share.engine + share.front)
    if share.loop > 0:
        most = min(most, 1 / share.loop)
    return max(1, math.ceil(most * share.engine - 1e-9))


def usable_cores() -> float:
    """Count the cores that this process may use: a container's quota counts."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # none, "max", or another system
        return cores


def has_room(starting: int) -> bool:
    """Tell whether there is memory for a further engine, in the container too.

    Those that are `starting` have not taken theirs yet.
    """
    needed = (starting + 1) * _ENGINE_BYTES
    free = [available_bytes()]
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        free.append(limit - used + _reclaimable_bytes())
    except (OSError, ValueError):  # none, "max", or another system
        pass
    return all(count is None or count > needed for count in free)


def _reclaimable_bytes() -> int:
    """Return the bytes of files that the system drops from memory where something needs it."""
    lines = (_CGROUP / "memory.stat").read_text().splitlines()
    return int(dict(line.split() for line in lines).get("inactive_file", "0"))


def processor_seconds(pid: int) -> float | None:
    """Return a process's processor time so far, None where it cannot be read."""
    try:
        # The name, in brackets, may contain spaces: the third field is the first after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
