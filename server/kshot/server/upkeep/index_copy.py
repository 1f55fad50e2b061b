"""A copy of a store's index that fits together, taken while a server changes the original.

The server keeps every other program out of its index, so its files are copied as they are. The
copy fits if the index did not change while its log was read, and the log did not begin anew: then
the log has every change that the index may lack. SQLite drops what is half written at its end.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from pathlib import Path

from kshot.server.errors import StartError
from kshot.server.store.tables.index import StoreIndex

_TRIES = 200
_PAUSE_SECONDS = 0.05
_TICK_SECONDS = 0.02  # kernels tell times of files apart that are 10 ms apart, most of them less
_LOG_HEADER = 32  # bytes, which change when a log begins anew


def copy_running_index(index: Path, copy: Path) -> StoreIndex:
    """Copy an index and its log beside `copy`, and open it; raise `StartError` and `OSError`.

    An index of an earlier release becomes one of this release, in the copy alone.
    """
    problem = "it changes all the time; try again when fewer models are made"
    log = copy.with_name(f"{copy.name}-wal")
    for attempt in range(_TRIES):
        for path in (copy, log, copy.with_name(f"{copy.name}-shm")):
            path.unlink(missing_ok=True)
        if _copied(index, copy, log):
            try:
                return StoreIndex(copy, create=False)
            except (StartError, sqlite3.Error) as error:
                problem = str(error).replace(str(copy.parent), str(index.parent))
        elif attempt == 0 and not index.is_file():
            raise StartError(f"{index.parent}: expected the folder of a store, found none")
        time.sleep(_PAUSE_SECONDS)
    raise StartError(f"{index}: cannot copy the index: {problem}")


def _copied(index: Path, copy: Path, log: Path) -> bool:
    """Copy index and log; return whether they fit together."""
    original = index.with_name(f"{index.name}-wal")
    try:
        before = _state(index)
        time.sleep(_TICK_SECONDS)
        if _state(index) != before:
            return False
        # The last write is so long ago that another one gets another time.
        shutil.copyfile(index, copy)
        header = _header(original)
        if header is not None:
            shutil.copyfile(original, log)
        return _header(original) == header and _state(index) == before
    except FileNotFoundError:
        return False


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _header(log: Path) -> bytes | None:
    """Return how a log begins, None if there is none."""
    try:
        with log.open("rb") as file:
            return file.read(_LOG_HEADER)
    except FileNotFoundError:
        return None
