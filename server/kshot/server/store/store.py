"""The store of adapted models: acknowledged ones are on disk until expiry or deletion."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from kshot.server.access.limits import UNLIMITED, Limits
from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    QuotaExceeded,
    StoreIsFull,
)
from kshot.server.event_log import log_event, short_id
from kshot.server.limits.store_room import NewModel, StoreRoom
from kshot.server.request.list_filter import ListFilter
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import (
    content_digest,
    described,
    key_name,
    model_content,
    opened,
    parse_arrays,
    with_record,
)
from kshot.server.store.failures import RequestAnswered, suppress_full_disk, system_errors
from kshot.server.store.files import checked_id
from kshot.server.store.folder import StoreFolder
from kshot.server.store.graves import Graves
from kshot.server.store.page_token import page_token as make_token
from kshot.server.store.page_token import parse_page_token
from kshot.server.store.sealing import Seals
from kshot.server.store.tables.index import AT_ONCE, Wanted
from kshot.server.store.tables.rows import DAMAGED, WRITTEN, AnsweredRequest, Row
from kshot.server.store.writer import ModelWriter, Parts

# How often the clocks are noted for the next start.
_NOTE_SECONDS = 600.0
# How many of the newest files a start looks at for a key that is missing.
_KEYS_LOOKED_AT = 16
_DAMAGED_HEADER = ValueError, AttributeError, RecursionError  # whoever reads the file hears it
# Times that a page looks at `AT_ONCE` records, between which others have their turn.
_ROUNDS = 8
NO_FILTER = ListFilter()

RequestOf = Callable[[AdaptedModelRecord], AnsweredRequest]


@dataclass
class StoreEvents:
    """What a store has done since it was opened."""

    sweep_count: int = 0
    expired_count: int = 0
    quarantined_count: int = 0


class LocalStore:
    """A folder of adapted models, for one process and any number of its threads.

    Its methods wait for the disk: call them off the event loop. They raise `KshotServerError`s, and
    `ValueError` for an id that no store gives.
    """

    def __init__(
        self,
        folder: StoreFolder,
        caps: tuple[int, int],
        seals: Seals | None = None,
    ) -> None:
        self._folder = folder
        self._files = folder.files
        self._index = folder.index
        self._seals = seals
        self._clock = folder.clock
        self._lock = threading.RLock()
        # Held while a sweep removes files, which takes long: never acquired under the other lock.
        self._removing = threading.Lock()
        # Held while a record changes: two changes of one model would write the same file.
        self._changing = threading.Lock()
        self._room = StoreRoom(folder.index.use, caps)
        self._writer = ModelWriter(self._files, self._index, self._lock)
        self._graves = Graves(self._files, self._index, self._lock)
        self._noted = -_NOTE_SECONDS, 0.0  # when the clocks were noted, and what was skipped
        self._erased: dict[str, float] = {}  # when tenants were, by `time.perf_counter`
        self._erasing: set[str] = set()
        self.events = StoreEvents()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_count: int,
        max_bytes: int,
        clock: Callable[[], float] | None = None,
        seals: Seals | None = None,
    ) -> LocalStore:
        """Open a folder, create it if necessary, and mend it; raise `StartError`.

        `clock` takes the place of the machine's clocks; `seals` encrypt the models' arrays.
        """
        store = cls(StoreFolder.open(path, clock), (max_count, max_bytes), seals)
        with suppress(sqlite3.Error):  # a full disk: deletions are to make room
            store._note_clocks()
            store._index.hold_room()
        store._warn_of_missing_keys()
        return store

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
        self._writer.close()
        with self._removing, self._lock:
            self._noted = -_NOTE_SECONDS, 0.0
            with suppress(sqlite3.Error):  # closed before, or no room
                self._note_clocks()
            self._folder.close()

    def put(
        self,
        model: AdaptedModelRecord,
        arrays: AdaptedArrays,
        request: RequestOf | None = None,
        limits: Limits = UNLIMITED,
        begun: float = math.inf,
    ) -> AdaptedModelRecord:
        """Write an adapted model to disk and return it with its `size_bytes`.

        One in memory is there until the process ends: its file is written, but nothing waits.
        `request` answers the request that made it, by the record as it is stored: model and request
        are kept together or not at all. `limits` are its tenant's. Raises `StoreIsFull`,
        `QuotaExceeded`, `StoreFailed`, `RequestAnswered` where an answer to the request's id is
        kept, `AdaptedModelDeleted` where its tenant was erased since the call had `begun` (by
        `time.perf_counter`), or `ValueError` for a malformed id or one that was used before; then
        nothing of it is left.
        """
        checked_id(model.id)
        content = model_content(model, arrays, self._seals)
        model = replace(model, size_bytes=content.size_bytes)
        row = Row.of(model, content.sha256)
        self._reserve(NewModel(model.id, model.tenant, model.size_bytes), limits)
        try:
            answered = None if request is None else request(model)
            add = self._writer.add_in_memory if model.in_memory else self._writer.add
            add(row, content.parts, answered, lambda: self._check(row, answered, begun))
        finally:
            with self._lock:
                self._room.release(model.id)
        return model

    def find_request(self, request_id: str, tenant: str = "") -> AnsweredRequest | None:
        """Return the answered request of a tenant's id, None if none is kept."""
        with self._lock, system_errors():
            request = self._index.request(tenant, request_id)
        return None if request is None or request.end_time <= self.now() else request

    def use(self, tenant: str | None = None) -> tuple[int, int]:
        """Return the number of a tenant's models, or of all, and the sum of their files' bytes."""
        with self._lock, system_errors():
            return self._index.use(tenant)

    def use_by_tenant(self) -> dict[str, tuple[int, int]]:
        """Return what `use` does for each tenant that has models."""
        with self._lock, system_errors():
            return self._index.use_by_tenant()

    def get(self, model_id: str, tenant: str = "") -> AdaptedModelRecord:
        """Return a tenant's record; raise `AdaptedModelNotFound` or `AdaptedModelDamaged`."""
        return self._live_row(model_id, tenant).adapted_model

    def read(self, model_id: str, tenant: str = "") -> AdaptedArrays:
        """Return the arrays, which are read-only; raise as `get` does.

        A file that was changed goes to quarantine: `AdaptedModelDamaged`, now and later.
        """
        row = self._live_row(model_id, tenant)
        with system_errors():
            if (content := self._whole(row)) is not None:
                return self._arrays(row, content)
            with self._lock:
                # The file of a model that was deleted meanwhile is missing, not damaged, and that
                # of one that has just been put gets its name under the lock.
                row = self._live_row(model_id, tenant)
                if (content := self._whole(row)) is not None:
                    return self._arrays(row, content)
                self._files.quarantine(model_id)
                self._index.mark_damaged(model_id)
                self.events.quarantined_count += 1
        raise AdaptedModelDamaged(model_id)

    def list(
        self,
        page_size: int,
        page_token: str = "",
        model: str | None = None,
        tenant: str = "",
        wanted: ListFilter = NO_FILTER,
    ) -> tuple[Sequence[AdaptedModelRecord], str]:
        """Return up to `page_size` records, oldest first, and the token of the next page or "".

        All are of one tenant. Expired and damaged models are left out. A filter by class or bundle
        looks at so many records that a page may be short, or empty, before the end. Raises
        `InvalidRequest`.
        """
        listed = json.dumps([model, wanted.text, tenant])
        after = parse_page_token(page_token, listed)
        moved = wanted.earlier_by(self.skipped)
        rows_wanted = Wanted(
            tenant, model, [(each.field, each.comparison, each.value) for each in moved.of_columns]
        )
        count, rounds = (AT_ONCE, _ROUNDS) if wanted.of_records else (page_size + 1, 1)
        page: list[AdaptedModelRecord] = []
        for _ in range(rounds):
            with self._lock, system_errors():
                rows = self._index.page(count, after, self.now(), rows_wanted)
            for row in rows:
                if len(page) == page_size:
                    return page, make_token(after, listed)
                after = row.create_time, row.id
                found = row.adapted_model
                if row.id not in self._graves and wanted.admits(
                    found.class_names, found.bundle_digest, found.model_version
                ):
                    page.append(found)
            if len(rows) < count:
                return page, ""
        return page, make_token(after, listed)

    def change(
        self,
        model_id: str,
        change: Callable[[AdaptedModelRecord], AdaptedModelRecord],
        tenant: str = "",
        limits: Limits = UNLIMITED,
    ) -> AdaptedModelRecord:
        """Change a tenant's record, in the index and in its file, and return it.

        `change` returns the new record, or raises to change nothing. Raises as `read` does, and as
        `put` does where the file grows. The new record is on disk when this returns, and the old
        one until then.
        """
        with self._changing:
            self.read(model_id, tenant)  # a damaged file goes to quarantine
            row = self._live_row(model_id, tenant)
            model = row.adapted_model
            model = replace(change(model), revision=model.revision + 1)
            with system_errors():
                content = with_record(self._files.read(model_id), model)
            model = replace(model, size_bytes=content.size_bytes)
            self._replace(row, Row.of(model, content.sha256), content.parts, limits)
        return model

    def replace(
        self,
        old: AdaptedModelRecord,
        model: AdaptedModelRecord,
        arrays: AdaptedArrays,
        limits: Limits = UNLIMITED,
    ) -> AdaptedModelRecord:
        """Put what `old` was adapted to again in its place, under its id, and return that.

        It expires when `old` does. If `old` was replaced meanwhile, that stays. Raises as `change`
        does; the new model is on disk when this returns, and the old one until then.
        """
        with self._changing:
            row = self._live_row(old.id, old.tenant)
            now = row.adapted_model
            if (now.bundle_digest, now.weights_digest) != (old.bundle_digest, old.weights_digest):
                return now
            model = replace(
                model,
                id=now.id,
                tenant=now.tenant,
                create_time=now.create_time,
                expire_time=now.expire_time,
                revision=now.revision + 1,
            )
            content = model_content(model, arrays, self._seals)
            model = replace(model, size_bytes=content.size_bytes)
            self._replace(row, Row.of(model, content.sha256), content.parts, limits)
        return model

    def assign(self, model_id: str, tenant: str) -> bool:
        """Give a model of nobody to a tenant; return whether it was whole.

        Its arrays are sealed anew, because a seal holds for one owner. Raises as `get` does; a file
        that was changed goes to quarantine.
        """
        with self._changing:
            try:
                arrays = self.read(model_id)
            except AdaptedModelDamaged:
                return False
            row = self._live_row(model_id, "")
            model = replace(row.adapted_model, tenant=tenant)
            content = model_content(model, arrays, self._seals)
            model = replace(model, size_bytes=content.size_bytes)
            self._replace(row, Row.of(model, content.sha256), content.parts, UNLIMITED)
        return True

    def delete(self, model_id: str, tenant: str = "") -> None:
        """Delete a tenant's adapted model and its file; raise as `get` does, except for damage."""
        checked_id(model_id)
        with system_errors():
            with self._lock:
                try:
                    self._live_row(model_id, tenant)
                except AdaptedModelDamaged:
                    row = self._index.row(model_id)
                    if row is None or (row.tenant or "") != tenant:
                        raise
                self._graves.delete(model_id, self.now())
            self._graves.remove([model_id])

    def delete_tenant(self, tenant: str) -> int:
        """Erase all that is kept of a tenant; return the number of its models.

        Others wait for parts of it only, and once for the index, which is written anew. A call that
        fails or is interrupted may leave a rest, which the next one erases. Of what is in
        quarantine all goes that is not known to be another tenant's. What calls of before it
        make is not kept, see `put`; a change or a replacement finds no row.
        """

        def others(model_id: str, content: bytes) -> bool:
            row = self._index.row(model_id)
            if row is not None and row.tenant is not None:
                return row.tenant != tenant
            try:
                return described(content).tenant != tenant
            except ValueError:
                return False

        def bury() -> int:
            self._erased[tenant] = time.perf_counter()
            return len(self._graves.delete_of(tenant, self.now()))

        count, removed = 0, False
        with self._removing, system_errors():
            self._erasing.add(tenant)
            try:
                while True:
                    with self._lock:
                        buried = bury()
                        if removed and not buried:
                            self._files.clear_quarantine(others)
                            self._index.forget_tenant(tenant)
                            return count
                    # Before the tombstones go: a file without either counts as lost, not deleted.
                    self._graves.remove()
                    count, removed = count + buried, True
            finally:
                self._erasing.discard(tenant)

    def erases(self, tenant: str) -> bool:
        """Tell whether a tenant is being erased now; never waits."""
        return tenant in self._erasing

    def sweep(self) -> int:
        """Remove expired models and tombstones of seven days; return how many expired.

        Other threads go on meanwhile: they wait for the index only, not for the files.
        """
        self.events.sweep_count += 1
        count, more = 0, True
        with self._removing, system_errors():
            try:
                while more:
                    expired, more = self._expire()
                    count += len(expired)
            finally:
                self._tidy()
        return count

    def now(self) -> float:
        """Return the store's time, which its records have; never waits for the disk."""
        return self._clock.now()

    @property
    def skipped(self) -> float:
        """Return the seconds that wall times are ahead of the store's."""
        return self._clock.skipped

    def on_wire(self, model: AdaptedModelRecord) -> AdaptedModelRecord:
        """Return a record with wall times in place of the store's."""
        return _shifted(model, self._clock.skipped)

    def stored(self, model: AdaptedModelRecord) -> AdaptedModelRecord:
        """Return a record with the store's times in place of wall times."""
        self.now()  # notices a jump
        return _shifted(model, -self._clock.skipped)

    def _check(self, row: Row, request: AnsweredRequest | None, begun: float) -> None:
        """Raise if a new model may not be kept; otherwise its row is next to be counted."""
        if begun <= self._erased.get(row.tenant or "", -math.inf):
            raise AdaptedModelDeleted(row.id)
        if request and self.find_request(request.request_id, request.tenant):
            raise RequestAnswered("request_id: expected a new one")
        self._room.release(row.id)

    def _replace(self, old: Row, new: Row, parts: Parts, limits: Limits) -> None:
        """Write a file and its row in the place of others; a file that grows needs room."""

        def check() -> None:
            if self._live_row(old.id, old.tenant or "") != old:
                raise AdaptedModelDamaged(old.id)
            self._room.release(new.id)

        growth = new.size_bytes - old.size_bytes
        if growth > 0:
            self._reserve(NewModel(new.id, new.tenant or "", growth, count=0), limits)
        try:
            self._writer.exchange(old, new, parts, check)
        finally:
            with self._lock:
                self._room.release(new.id)

    def _whole(self, row: Row) -> bytes | None:
        """Return the content of a file if it is what was written."""
        try:
            content = self._files.read(row.id)
        except FileNotFoundError:
            return None
        return content if content_digest(content) == row.sha256 else None

    def _arrays(self, row: Row, content: bytes) -> AdaptedArrays:
        return parse_arrays(opened(content, row.adapted_model, self._seals))

    def _warn_of_missing_keys(self) -> None:
        """Look at the newest files alone: a start reads no more than their headers."""
        missing: Counter[str] = Counter()
        known = () if self._seals is None else self._seals.ciphers
        with suppress(OSError):
            for header in self._files.newest_headers(_KEYS_LOOKED_AT):
                with suppress(*_DAMAGED_HEADER):
                    if (name := key_name(header)) is not None and name not in known:
                        missing[name] += 1
        if missing:
            log_event(
                "store_key_missing", logging.WARNING, keys=sorted(missing), count=missing.total()
            )

    def _note_clocks(self) -> None:
        seen = self._clock.seen()
        noted_at, skipped = self._noted
        if seen.elapsed - noted_at >= _NOTE_SECONDS or seen.skipped != skipped:
            with suppress_full_disk():
                self._index.note(seen)
                self._noted = seen.elapsed, seen.skipped

    def _live_row(self, model_id: str, tenant: str) -> Row:
        """Return a tenant's row; one whose owner is lost is damaged for all."""
        checked_id(model_id)
        with self._lock, system_errors():
            row = self._index.row(model_id)
            tombstone = None if row else self._index.tombstone(model_id)
        found = row or tombstone
        if found is not None and found.tenant not in (tenant, None):
            raise AdaptedModelNotFound(model_id)
        if model_id in self._graves or (tombstone is not None and tombstone.deleted):
            raise AdaptedModelDeleted(model_id)
        if tombstone is not None:
            raise self._expired(model_id, tombstone.expire_time)
        if row is None:
            raise AdaptedModelNotFound(model_id)
        if row.expire_time <= self.now():
            raise self._expired(model_id, row.expire_time)
        if row.state == WRITTEN:
            raise AdaptedModelNotFound(model_id)
        if row.state == DAMAGED:
            raise AdaptedModelDamaged(model_id)
        return row

    def _expired(self, model_id: str, expire_time: float) -> AdaptedModelExpired:
        return AdaptedModelExpired(model_id, expire_time + self._clock.skipped)

    def _expire(self) -> tuple[Sequence[str], bool]:
        """Remove some expired models; return their ids and whether there may be more."""
        with self._lock, system_errors():
            expired, more = self._graves.expire(self.now())
            self.events.expired_count += len(expired)
        with suppress(OSError):  # the next sweep tries again
            self._graves.remove(expired)
        return expired, more

    def _tidy(self) -> None:
        """Remove files that are left, and keep room for later."""
        try:
            self._graves.remove()
        finally:
            with self._lock:
                self._note_clocks()
                self._index.hold_room()

    def _reserve(self, wanted: NewModel, limits: Limits) -> None:
        """Reserve room, that of expired models if necessary; never waits for a sweep."""
        more = True
        while full := self._try_to_reserve(wanted, limits):
            if not more:
                raise full
            _, more = self._expire()

    def _try_to_reserve(
        self, wanted: NewModel, limits: Limits
    ) -> StoreIsFull | QuotaExceeded | None:
        with self._lock, system_errors():
            taken = self._index.row(wanted.id) or self._index.tombstone(wanted.id)
            if wanted.count and (taken or wanted.id in self._room):
                raise ValueError(f"id: expected a new one, got {short_id(wanted.id)}")
            return self._room.reserve(wanted, limits)


def _shifted(model: AdaptedModelRecord, seconds: float) -> AdaptedModelRecord:
    if seconds == 0.0:
        return model
    times = (model.create_time + seconds, model.expire_time + seconds)
    return replace(model, create_time=times[0], expire_time=times[1])
