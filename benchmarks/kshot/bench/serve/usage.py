"""What the processes of a server use, as Linux tells it in /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from kshot.bench.serve.server_process import ServerProcess


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the server's two processes."""

    front_bytes: int
    engine_bytes: int


@dataclass(frozen=True)
class Cpu:
    """Milliseconds of processor time of the server's two processes."""

    front_ms: float
    engine_ms: float


def memory_of(server: ServerProcess) -> Memory:
    """Read a server's memory; raises ``ClickException`` where that cannot be read."""
    return Memory(resident_bytes(server.front_pid), resident_bytes(server.engine_pid))


def cpu_of(server: ServerProcess) -> Cpu:
    """Read what a server has computed so far; raises ``ClickException`` where that is not told."""
    return Cpu(cpu_ms(server.front_pid), cpu_ms(server.engine_pid))


def cpu_per_call(before: Cpu, after: Cpu, calls: int) -> Cpu | None:
    """Share what was computed among calls; None when there were none."""
    if calls == 0:
        return None
    front, engine = after.front_ms - before.front_ms, after.engine_ms - before.engine_ms
    return Cpu(front / calls, engine / calls)


def resident_bytes(pid: int) -> int:
    """Read a process's resident memory; raises ``ClickException`` where there is no /proc."""
    fields = (line.split() for line in _read(pid, "status").splitlines())
    return 1024 * next(int(words[1]) for words in fields if words[0] == "VmRSS:")


def cpu_ms(pid: int) -> float:
    """Read a process's time in user and system mode; raises ``ClickException`` without /proc."""
    # The name, in brackets, may hold spaces: fields count from behind it, where the third begins.
    fields = _read(pid, "stat").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")


def proc_there() -> bool:
    """Tell whether this system describes its processes in /proc."""
    return Path(f"/proc/{os.getpid()}/stat").exists()


def _read(pid: int, name: str) -> str:
    path = Path(f"/proc/{pid}/{name}")
    try:
        return path.read_text()
    except OSError as error:
        raise click.ClickException(
            f"memory and time of processes are read from /proc, but {path} cannot be read: "
            f"{error.strerror}"
        ) from error
