"""The available memory, to check before much of it is allocated."""

from __future__ import annotations

from pathlib import Path

_MEMORY_FACTS = Path("/proc/meminfo")


def available_bytes() -> int | None:
    """Return the bytes that a process can allocate without swapping, None if unknown."""
    try:
        lines = _MEMORY_FACTS.read_text().splitlines()
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    kilobytes = facts.get("MemAvailable", "").split()
    return int(kilobytes[0]) * 1024 if kilobytes else None
