"""The folder of a store: opened by one process, cleared of the remains of a crash."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bundle import sync_folder
from kshot.server.errors import StartError
from kshot.server.store.clock import StoreClock
from kshot.server.store.files import StoreFiles
from kshot.server.store.ownership import check_root, private_file
from kshot.server.store.recovery import recover
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.salvage import rebuild
from kshot.server.store.tables.schema import IndexDamaged, NewerIndex

INDEX_FILE = "index.sqlite3"
_SIDE_FILES = ("index.sqlite3-wal", "index.sqlite3-shm", "index.sqlite3-journal")
LOCK_FILE = "lock"


@dataclass
class StoreFolder:
    """The files, the index and the clock of one store, and the lock against other processes."""

    files: StoreFiles
    index: StoreIndex
    clock: StoreClock
    _lock: int = field(repr=False)

    @classmethod
    def open(
        cls, path: Path, clock: Callable[[], float] | None = None, *, repair: bool = False
    ) -> StoreFolder:
        """Open a folder, create it if necessary, and mend it; raise `StartError`.

        `clock` takes the place of the machine's clocks. To `repair` it, every file is read, and a
        damaged index is made again.
        """
        with _start_errors(path):
            check_root(path)
            lock = _lock_folder(path)
            try:
                files, index, rebuilt = _open_parts(path, repair=repair)
                try:
                    seen = index.seen()
                    own = (
                        StoreClock.of_machine(seen)
                        if clock is None
                        else StoreClock(seen, clock, clock, "given")
                    )
                    recover(files, index, own.now(), read_all=repair, rebuilt=rebuilt)
                except BaseException:
                    index.close()
                    raise
            except BaseException:
                os.close(lock)
                raise
        return cls(files, index, own, lock)

    def close(self) -> None:
        """Close the index and release the lock; a second call does nothing."""
        if self._lock >= 0:
            self.index.close()
            os.close(self._lock)
            self._lock = -1


@contextmanager
def _start_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system into a `StartError` about the store at `path`."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise StartError(
            f"{path}: cannot open the store: {error.strerror}; expected a folder, got a file or a "
            "path below one; choose another one"
        ) from error
    except OSError as error:
        raise StartError(
            f"{path}: cannot open the store: {error.strerror}; a server writes to its store: make "
            "the folder writable, or choose another one"
        ) from error
    except sqlite3.Error as error:
        raise StartError(
            f"{path / INDEX_FILE}: cannot open the index: {error}; check the disk, then run "
            f"`kshot store repair {path}`"
        ) from error


def in_use(path: Path) -> StartError:
    """Return the error for a store that another process has."""
    return StartError(f"{path}: in use by another process; stop it or choose another folder")


def _lock_folder(path: Path) -> int:
    """Return the descriptor of the lock, which ends with the process at the latest."""
    private_file(path / LOCK_FILE, create=True)
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise in_use(path) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_parts(path: Path, *, repair: bool) -> tuple[StoreFiles, StoreIndex, bool]:
    """Open the files and the index of a folder that is locked; tell whether it was rebuilt."""
    files = StoreFiles(path)
    files.open()
    for name in _SIDE_FILES:
        private_file(path / name)
    found, rebuilt = files.find(), False
    try:
        # Without an index every file would look like an orphan: make no new one beside files.
        index = StoreIndex(path / INDEX_FILE, create=not (found.models or found.partial))
    except (IndexDamaged, NewerIndex):
        if not repair:
            raise
        index, rebuilt = rebuild(path / INDEX_FILE, files.quarantine_folder), True
    sync_folder(path)
    return files, index, rebuilt
