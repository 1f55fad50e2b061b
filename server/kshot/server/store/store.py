"""The store of adapted models: acknowledged ones are on disk until expiry or deletion."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    StoreIsFull,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import system_errors
from kshot.server.store.files import arrays_bytes, checked_id, parse_arrays
from kshot.server.store.folder import StoreFolder
from kshot.server.store.index import Row
from kshot.server.store.page_token import page_token, parse_page_token

TOMBSTONE_SECONDS = 7 * 24 * 3600


class LocalStore:
    """A folder of adapted models, for one process and any number of its threads.

    Its methods wait for the disk: call them off the event loop. They raise `KshotServerError`s, and
    `ValueError` for an id that no store gives.
    """

    def __init__(
        self,
        folder: StoreFolder,
        caps: tuple[int, int],
        clock: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._files = folder.files
        self._index = folder.index
        self._caps = caps
        self._clock = clock
        self._lock = threading.RLock()
        # Held while a sweep removes files, which takes long: never acquired under the other lock.
        self._removing = threading.Lock()
        self._reserved: dict[str, int] = {}  # id -> bytes of models that are being written
        self._buried: set[str] = set()  # ids without a row whose file is not removed yet

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_count: int,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> LocalStore:
        """Open a folder, create it if necessary, and clear it; raise `StartError`."""
        return cls(StoreFolder.open(path), (max_count, max_bytes), clock)

    def __enter__(self) -> LocalStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the index and release the folder; a second call does nothing."""
        with self._removing, self._lock:
            self._folder.close()

    def put(self, model: AdaptedModelRecord, arrays: AdaptedArrays) -> AdaptedModelRecord:
        """Write an adapted model to disk and return it with its `size_bytes`.

        Raises `StoreIsFull`, `StoreFailed`, or `ValueError` for a malformed id or one that was used
        before; then nothing of it is left.
        """
        checked_id(model.id)
        content = arrays_bytes(arrays)
        model = replace(model, size_bytes=len(content))
        self._reserve(model.id, len(content))
        try:
            with system_errors():
                self._files.write(model.id, content)
                with self._lock:
                    self._index.insert(model, hashlib.sha256(content).hexdigest())
                    del self._reserved[model.id]
        except BaseException:
            with suppress(OSError):
                self._files.remove([model.id])
            with self._lock:
                self._reserved.pop(model.id, None)
            raise
        return model

    def get(self, model_id: str) -> AdaptedModelRecord:
        """Return a record; raise `AdaptedModelNotFound` or `AdaptedModelDamaged`."""
        return self._live_row(model_id).model

    def read(self, model_id: str) -> AdaptedArrays:
        """Return the arrays, which are read-only; raise as `get` does.

        A file that was changed goes to quarantine: `AdaptedModelDamaged`, now and later.
        """
        row = self._live_row(model_id)
        with system_errors():
            try:
                content = self._files.read(model_id)
            except FileNotFoundError:
                content = b""
            if hashlib.sha256(content).hexdigest() == row.sha256:
                return parse_arrays(content)
            with self._lock:
                # The file of a model that was deleted meanwhile is missing, not damaged.
                self._live_row(model_id)
                self._files.quarantine(model_id)
                self._index.mark_damaged(model_id)
        raise AdaptedModelDamaged(model_id)

    def list(
        self, page_size: int, page_token: str = "", model: str | None = None
    ) -> tuple[Sequence[AdaptedModelRecord], str]:
        """Return up to `page_size` records, oldest first, and the token of the next page or "".

        Expired and damaged models are left out. Raises `InvalidRequest`.
        """
        after = parse_page_token(page_token, model)
        with self._lock, system_errors():
            found = self._index.page(page_size + 1, after, self._clock(), model)
        page = found[:page_size]
        return page, _next_token(page, model) if len(found) > page_size else ""

    def delete(self, model_id: str) -> None:
        """Delete an adapted model and its file; raise as `get` does, except for damage."""
        checked_id(model_id)
        with system_errors():
            with self._lock:
                with suppress(AdaptedModelDamaged):
                    self._live_row(model_id)
                # The row goes first: a crash leaves a file without a row; the next open removes it.
                self._index.bury(model_id, self._clock())
                self._buried.add(model_id)
            self._remove([model_id])

    def sweep(self) -> int:
        """Remove expired models and tombstones of seven days; return how many expired.

        Other threads go on meanwhile: they wait for the index only, not for the files.
        """
        with self._removing, system_errors():
            with self._lock:
                expired = self._index.bury_expired(self._clock())
                self._index.purge(self._clock() - TOMBSTONE_SECONDS)
                self._buried.update(expired)
                buried = sorted(self._buried)
            self._remove(buried)
        return len(expired)

    def _live_row(self, model_id: str) -> Row:
        checked_id(model_id)
        with self._lock, system_errors():
            row = self._index.row(model_id)
            tombstone = None if row else self._index.tombstone(model_id)
        if tombstone is not None:
            raise (
                AdaptedModelDeleted(model_id)
                if tombstone.deleted
                else AdaptedModelExpired(model_id, tombstone.expire_time)
            )
        if row is None:
            raise AdaptedModelNotFound(model_id)
        if row.model.expire_time <= self._clock():
            raise AdaptedModelExpired(model_id, row.model.expire_time)
        if row.damaged:
            raise AdaptedModelDamaged(model_id)
        return row

    def _remove(self, buried: Sequence[str]) -> None:
        self._files.remove(buried)
        with self._lock:
            self._buried.difference_update(buried)

    def _reserve(self, model_id: str, size_bytes: int) -> None:
        if self._try_to_reserve(model_id, size_bytes):
            self.sweep()
            if full := self._try_to_reserve(model_id, size_bytes):
                raise full

    def _try_to_reserve(self, model_id: str, size_bytes: int) -> StoreIsFull | None:
        with self._lock, system_errors():
            taken = self._index.row(model_id) or self._index.tombstone(model_id)
            if taken or model_id in self._reserved:
                raise ValueError(f"id: expected a new one, got {model_id}")
            full = self._full(size_bytes)
            if full is None:
                self._reserved[model_id] = size_bytes
            return full

    def _full(self, size_bytes: int) -> StoreIsFull | None:
        count, used_bytes = self._index.use()
        count += len(self._reserved)
        used_bytes += sum(self._reserved.values())
        max_count, max_bytes = self._caps
        if count + 1 > max_count:
            return StoreIsFull("models", max_count)
        if used_bytes + size_bytes > max_bytes:
            return StoreIsFull("bytes", max_bytes)
        return None


def _next_token(page: Sequence[AdaptedModelRecord], model: str | None) -> str:
    return page_token((page[-1].create_time, page[-1].id), model)
