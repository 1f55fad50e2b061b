"""Memory and processor time of a server's front and engines, read from Linux's /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the server's front and its engines."""

    front_bytes: int
    engine_bytes: int

    def __sub__(self, other: Memory) -> Memory:
        """Return the difference of each part."""
        return Memory(self.front_bytes - other.front_bytes, self.engine_bytes - other.engine_bytes)

    @property
    def total_bytes(self) -> int:
        """Return the sum of all processes."""
        return self.front_bytes + self.engine_bytes


@dataclass(frozen=True)
class Cpu:
    """Milliseconds of processor time of the server's front and its engines."""

    front_ms: float
    engine_ms: float


def cpu_per_call(before: Cpu | None, after: Cpu | None, calls: int) -> Cpu | None:
    """Return the processor time of one call; None when it is unknown or there were no calls."""
    if before is None or after is None or calls == 0:
        return None
    front, engine = after.front_ms - before.front_ms, after.engine_ms - before.engine_ms
    return Cpu(front / calls, engine / calls)


def resident_bytes(pid: int) -> int:
    """Read a process's resident memory; raises `ClickException` where there is no /proc."""
    fields = (line.split() for line in _read(pid, "status").splitlines())
    return 1024 * next(int(words[1]) for words in fields if words[0] == "VmRSS:")


def has_proc() -> bool:
    """Tell whether this system shows its processes in /proc."""
    return Path(f"/proc/{os.getpid()}/stat").exists()


def cpu_ms(pid: int) -> float:
    """Read a process's time in user and system mode; raises `ClickException` without /proc."""
    # The name, in brackets, may contain spaces: the third field is the first after it.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")


def _read(pid: int, name: str) -> str:
    path = Path(f"/proc/{pid}/{name}")
    try:
        return path.read_text()
    except OSError as error:
        raise click.ClickException(
            f"cannot read memory and time of processes from {path}: {error.strerror}"
        ) from error
