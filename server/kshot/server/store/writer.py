"""Writes models to their folder and its index: who is told of one finds it after a power cut."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

from kshot.server.errors import AdaptedModelDeleted
from kshot.server.store.failures import system_errors
from kshot.server.store.files import StoreFiles, fill
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import WRITTEN, AnsweredRequest, Row

# Each of the store's threads waits for three syncs at once, for one of them itself.
_SYNC_THREADS = 8

Parts = Sequence[bytes | memoryview]


class ModelWriter:
    """Writes what a store keeps, for any number of its threads; raises what `system_errors` does.

    A new model waits for the disk once: its content, its name and its row are synced side by side.
    Its row says `WRITTEN` until all three are there, so that the next start drops what a crash left
    of it. One in memory waits for nothing: the next start drops it.
    """

    def __init__(self, files: StoreFiles, index: StoreIndex, lock: threading.RLock) -> None:
        self._files, self._index, self._lock = files, index, lock
        self._syncs = ThreadPoolExecutor(_SYNC_THREADS, "kshot-sync")

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._syncs.shutdown()

    def add(
        self,
        row: Row,
        parts: Parts,
        request: AnsweredRequest | None,
        check: Callable[[], None],
    ) -> None:
        """Write a model that is new, and the request that made it; if this fails, neither is left.

        `check` raises where they may not be kept; it runs under the store's lock. Raises
        `AdaptedModelDeleted` if the model was deleted before it was whole.
        """
        written = replace(row, state=WRITTEN)
        with system_errors():
            with self._lock:
                check()
                self._index.insert(written, request)
            try:
                self._fill(row.id, parts)
                with self._lock:
                    self._files.finish(row.id)
                    if not self._index.settle(written):
                        raise AdaptedModelDeleted(row.id)
            except BaseException:
                with suppress(OSError):
                    self._files.discard(row.id)
                with suppress(sqlite3.Error), self._lock:  # the next start drops it, too
                    self._index.forget(row.id)
                raise

    def add_in_memory(
        self,
        row: Row,
        parts: Parts,
        request: AnsweredRequest | None,
        check: Callable[[], None],
    ) -> None:
        """Do what `add` does for a model that ends with this process; nothing is synced."""
        with system_errors():
            try:
                self._files.write_unsynced(row.id, parts)
                with self._lock:
                    check()
                    full = self._index.insert_unsynced(row, request)
            except BaseException:
                with suppress(OSError):
                    self._files.discard(row.id)
                raise
        if full:
            self._syncs.submit(self._take_in)

    def exchange(self, old: Row, new: Row, parts: Parts, check: Callable[[], None]) -> None:
        """Write a model in the place of the one with its id; if this fails, that stays.

        `check` raises where it may not be; it runs under the store's lock.
        """
        with system_errors():
            try:
                self._files.write(new.id, parts)
                with self._lock:
                    check()
                    # From here on it is changed: the next start renames the file if need be.
                    self._index.replace(new)
                    try:
                        self._files.finish(new.id)
                    except BaseException:
                        self._index.replace(old)
                        raise
            except BaseException:
                with suppress(OSError):
                    self._files.drop_partial(new.id)
                raise

    def _take_in(self) -> None:
        with suppress(sqlite3.Error), self._lock:  # a later change tries again
            self._index.take_in()

    def _fill(self, model_id: str, parts: Parts) -> None:
        """Write a file and wait until it, its name, and all that the index says are on disk."""
        with self._files.create(model_id) as file:
            beside = [
                self._syncs.submit(self._files.sync_names),
                self._syncs.submit(self._index.sync),
            ]
            try:
                fill(file, parts)
            finally:
                wait(beside)
        for sync in beside:
            sync.result()
