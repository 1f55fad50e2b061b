"""The folder of a store: opened by one process, cleared of the remains of a crash."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bundle import sync_folder
from kshot.server.errors import StartError
from kshot.server.store.files import StoreFiles
from kshot.server.store.index import StoreIndex

_INDEX_FILE = "index.sqlite3"
_LOCK_FILE = "lock"


@dataclass
class StoreFolder:
    """The files and the index of one store, and the lock that keeps other processes out."""

    files: StoreFiles
    index: StoreIndex
    _lock: int = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> StoreFolder:
        """Open a folder, create it if necessary, and clear it; raise `StartError`."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock_folder(path)
            try:
                files, index = _open_parts(path)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise StartError(f"{path}: cannot open the store: {error.strerror}") from error
        except sqlite3.Error as error:
            raise StartError(f"{path / _INDEX_FILE}: cannot open the index: {error}") from error
        return cls(files, index, lock)

    def close(self) -> None:
        """Close the index and release the lock; a second call does nothing."""
        if self._lock >= 0:
            self.index.close()
            os.close(self._lock)
            self._lock = -1


def _lock_folder(path: Path) -> int:
    """Return the descriptor of the lock, which ends with the process at the latest."""
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StartError(
            f"{path}: in use by another process; stop it or choose another folder"
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_parts(path: Path) -> tuple[StoreFiles, StoreIndex]:
    files = StoreFiles(path)
    files.open()
    # Without an index every file would look like an orphan: make no new one beside files.
    index = StoreIndex(path / _INDEX_FILE, create=not files.ids())
    try:
        (path / _INDEX_FILE).chmod(0o600)
        sync_folder(path)
        damaged = index.ids()
        files.sweep(set(damaged))
        for model_id in set(damaged) - files.ids():
            if not damaged[model_id]:
                index.mark_damaged(model_id)
    except BaseException:
        index.close()
        raise
    return files, index
