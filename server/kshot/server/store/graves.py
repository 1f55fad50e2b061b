"""Adapted models on their way out of a store: out of its index first, then out of its folders."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Sequence

from kshot.server.store.failures import maybe_full_disk, suppress_full_disk
from kshot.server.store.files import StoreFiles
from kshot.server.store.tables.index import StoreIndex

TOMBSTONE_SECONDS = 7 * 24 * 3600
# How many files of expired models make room for the note that all of them are gone.
_EMPTY_AT_ONCE = 32


class Graves:
    """Buries models; all but `remove` is called under the store's lock.

    The row goes first: after a crash its tombstone proves that the file may go. On a full disk,
    where there is no room for a tombstone, the file is emptied first, and its name tells.
    """

    def __init__(self, files: StoreFiles, index: StoreIndex, lock: threading.RLock) -> None:
        self._files, self._index, self._lock = files, index, lock
        self._buried: set[str] = set()  # ids without a row whose file is not removed yet
        self._gone: set[str] = set()  # ids that were deleted while the index had no room to say so

    def __contains__(self, model_id: str) -> bool:
        """Tell whether a model was deleted that still has a row."""
        return model_id in self._gone

    def delete(self, model_id: str, now: float) -> None:
        """Replace a row by a tombstone."""
        try:
            self._index.bury(model_id, now)
        except sqlite3.Error as error:
            if not maybe_full_disk(error):
                raise
            self._files.empty([model_id], deleted=True)
            self._gone.add(model_id)
            self.try_again(now)
        self._buried.add(model_id)

    def delete_of(self, tenant: str, now: float) -> list[str]:
        """Replace some rows of a tenant by tombstones, and return their ids."""
        ids = self._index.bury_of(tenant, now)
        self._buried.update(ids)
        return ids

    def try_again(self, now: float) -> None:
        """Write the tombstones that the index had no room for."""
        with suppress_full_disk():
            for model_id in sorted(self._gone):
                self._index.bury(model_id, now)
                self._gone.remove(model_id)
                self._buried.add(model_id)

    def expire(self, now: float) -> tuple[Sequence[str], bool]:
        """Replace some expired rows by tombstones, and forget some old tombstones.

        Returns the rows' ids and whether there is more to do.
        """
        self.try_again(now)
        try:
            expired, more = self._index.sweep(now, now - TOMBSTONE_SECONDS)
        except sqlite3.Error as error:
            if not maybe_full_disk(error):
                raise
            full = self._index.expired(now, _EMPTY_AT_ONCE, self._files.takes_room)
            self._files.empty([model_id for model_id, *_ in full], deleted=False)
            expired, more = self._index.sweep(now, now - TOMBSTONE_SECONDS)
        self._buried.update(expired)
        return expired, more

    def remove(self, model_ids: Collection[str] | None = None) -> None:
        """Remove the files of what is buried, by default of all, without the lock: it may last."""
        with self._lock:
            wanted = self._buried if model_ids is None else self._buried.intersection(model_ids)
            removable = sorted(wanted - self._gone)
        self._files.remove(removable)
        with self._lock:
            self._buried.difference_update(removable)
