"""The store's index: one SQLite row per adapted model, and a tombstone for each that is gone.

Answers to request ids are rows too, written together with the model that they made.

A flipped bit is found: SQLite checks its pages and its log, the text of the schema is compared, and
each row has a digest. Indices of SQLite that do not fit the rows are made again.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kshot.server.store.failures import suppress_full_disk
from kshot.server.store.ownership import private_file
from kshot.server.store.tables.rows import (
    DAMAGED,
    WHOLE,
    AnsweredRequest,
    Columns,
    Row,
    Seen,
    Tombstone,
    Value,
    intact,
    values,
)
from kshot.server.store.tables.schema import (
    LOG_PAGES,
    REPLACE,
    REPLACE_REQUEST,
    REPLACE_TOMBSTONE,
    prepare,
    transaction,
)

_INSERT = REPLACE.replace("REPLACE", "INSERT")
_SETTLE = "UPDATE adapted_models SET damaged = ?, digest = ? WHERE id = ? AND digest = ?"
_DROP = "DELETE FROM adapted_models WHERE rowid = ?"
_DROP_TOMBSTONE = "DELETE FROM tombstones WHERE rowid = ?"
_DROP_REQUEST = "DELETE FROM requests WHERE rowid = ?"
_FORGET = (
    "DELETE FROM tombstones WHERE rowid IN "
    "(SELECT rowid FROM tombstones WHERE end_time <= ? LIMIT ?)"
)
_ANSWERS_OF = "SELECT rowid, * FROM requests WHERE adapted_model = ? AND answer != x''"
_FORGET_REQUESTS = _FORGET.replace("tombstones", "requests")
_USE = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM adapted_models"

# Of a tenant's answers so many are kept, with so many bytes; the oldest go, some at a time.
_MOST_ANSWERS = 10_000, 2**26
_TRIM_AFTER = 64
_TRIM_REQUESTS = """DELETE FROM requests WHERE rowid IN (
    SELECT rowid FROM (
        SELECT rowid, row_number() OVER newest AS place, sum(length(answer)) OVER newest AS size
        FROM requests WHERE tenant = ? WINDOW newest AS (ORDER BY end_time DESC, rowid DESC)
    ) WHERE place > ? OR size > ?
)"""

# How many rows a sweep takes in a transaction, for which others wait.
AT_ONCE = 500
_LONGEST_WAIT = 5.0  # for another program that reads the file
# Behind so many rows that wait for no sync the log is taken in: each changes a few of its pages.
_UNSYNCED_ROWS = LOG_PAGES // 8


@dataclass(frozen=True)
class Wanted:
    """The rows of a page: a tenant, a model, and terms of a column, a comparison and a value.

    Columns and comparisons become SQL as they are.
    """

    tenant: str = ""
    model: str | None = None
    terms: Sequence[tuple[str, str, Value]] = ()


class StoreIndex:
    """The tables of a store, for one thread at a time; every method raises `sqlite3.Error`."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the index, or `create` a missing one; raise `StartError` if it is not usable.

        An index of an earlier release becomes one of this release.
        """
        private_file(path, create=True)
        self._answers: Counter[str] = Counter()  # of each tenant, since the start
        self._unsynced = 0  # rows since the start
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_LONGEST_WAIT
        )
        # Text with a flipped bit may be no UTF-8: its digest tells, not an exception.
        self._connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        try:
            prepare(self._connection, path, create=create)
            self._log = os.open(f"{path}-wal", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._connection.close()
        log, self._log = self._log, -1
        if log >= 0:
            os.close(log)

    def insert(self, row: Row, request: AnsweredRequest | None = None) -> None:
        """Add a row, and the request that made it; both or none are on disk after a `sync`."""
        with self._without_wait():
            self._connection.execute(_INSERT, values(row))
            if request is not None:
                self._connection.execute(REPLACE_REQUEST, values(request))
                if self._answers[request.tenant] % _TRIM_AFTER == 0:  # the first one, too
                    self._connection.execute(_TRIM_REQUESTS, (request.tenant, *_MOST_ANSWERS))
                self._answers[request.tenant] += 1

    def insert_unsynced(self, row: Row, request: AnsweredRequest | None) -> bool:
        """Add what `insert` does, without any sync; return whether it is time to `take_in`."""
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            self.insert(row, request)
        finally:
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self._unsynced += 1
        return self._unsynced % _UNSYNCED_ROWS == 0

    def take_in(self) -> None:
        """Move the log into the index, which waits for the disk."""
        self._connection.execute("PRAGMA wal_checkpoint").fetchall()

    def sync(self) -> None:
        """Wait until all changes are on disk; for any thread, beside any other call.

        Many that wait at once wait for one sync of the log.
        """
        # What is not in the log any more is in the index: SQLite syncs that before it lets go.
        os.fdatasync(self._log)

    def settle(self, row: Row) -> bool:
        """Change a row from `WRITTEN` to `WHOLE`; return whether it was still there.

        That may be lost in a power cut: the file tells as much.
        """
        before, after = values(row), values(replace(row, state=WHOLE))
        with self._without_wait() as connection:
            found = connection.execute(_SETTLE, (WHOLE, after[-1], row.id, before[-1]))
        return found.rowcount == 1

    def forget(self, model_id: str) -> None:
        """Remove a row that nobody has heard of, and its request."""
        with self._transaction():
            self._connection.execute("DELETE FROM adapted_models WHERE id = ?", (model_id,))
            self._connection.execute("DELETE FROM requests WHERE adapted_model = ?", (model_id,))

    def row(self, model_id: str) -> Row | None:
        """Return the row of an id, expired or not; one that was changed is damaged."""
        found = self._connection.execute(
            "SELECT * FROM adapted_models WHERE id = ?", (model_id,)
        ).fetchone()
        if found is None:
            return None
        return intact(Row, found) or Row.unknown(model_id, (0.0, float("inf")))

    def tombstone(self, model_id: str) -> Tombstone | None:
        """Return what is remembered of a removed id."""
        found = self._connection.execute(
            "SELECT * FROM tombstones WHERE id = ?", (model_id,)
        ).fetchone()
        return None if found is None else intact(Tombstone, found)

    def request(self, tenant: str, request_id: str) -> AnsweredRequest | None:
        """Return the answered request of an id; one that was changed counts as none."""
        found = self._connection.execute(
            "SELECT * FROM requests WHERE tenant = ? AND request_id = ?", (tenant, request_id)
        ).fetchone()
        return None if found is None else intact(AnsweredRequest, found)

    def bury(self, model_id: str, end_time: float) -> None:
        """Replace a row by a tombstone that says deleted."""
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT id, expire_time, tenant FROM adapted_models WHERE id = ?", (model_id,)
            ).fetchall()
            self._bury(found, end_time, deleted=True)

    def bury_of(self, tenant: str, end_time: float) -> list[str]:
        """Replace up to `AT_ONCE` rows of a tenant by tombstones, and return their ids."""
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT id, expire_time, tenant FROM adapted_models WHERE tenant = ? LIMIT ?",
                (tenant, AT_ONCE),
            ).fetchall()
            self._bury(found, end_time, deleted=True)
        return [model_id for model_id, *_ in found]

    def forget_tenant(self, tenant: str) -> None:
        """Drop a tenant's tombstones and requests, and the bytes of all that was dropped before.

        It writes the index anew, without its free pages, and empties the log.
        """
        with self._transaction() as connection:
            connection.execute("DELETE FROM tombstones WHERE tenant = ?", (tenant,))
            connection.execute("DELETE FROM requests WHERE tenant = ?", (tenant,))
        self._connection.execute("PRAGMA temp_store = MEMORY")  # no copy of rows elsewhere
        self._connection.execute("VACUUM")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.hold_room()

    def expired(
        self, now: float, count: int, wanted: Callable[[str], bool] = lambda _: True
    ) -> list[tuple[str, float, str | None]]:
        """Return ids, times and tenants of up to `count` expired rows; one changed proves none.

        `wanted` chooses them by their ids.
        """
        found = self._connection.execute(
            "SELECT * FROM adapted_models WHERE expire_time <= ?", (now,)
        )
        rows = (row for each in found if (row := intact(Row, each)) is not None and wanted(row.id))
        return [(row.id, row.expire_time, row.tenant) for row in itertools.islice(rows, count)]

    def sweep(self, now: float, tombstone_end: float) -> tuple[list[str], bool]:
        """Replace expired rows by tombstones, and forget old tombstones and requests.

        It takes `AT_ONCE` of each. Returns the rows' ids and whether there is more to do.
        """
        with self._transaction() as connection:
            expired = self.expired(now, AT_ONCE)
            self._bury(expired, now, deleted=False)
            forgotten = [
                connection.execute(statement, (end, AT_ONCE)).rowcount
                for statement, end in ((_FORGET, tombstone_end), (_FORGET_REQUESTS, now))
            ]
        return [model_id for model_id, *_ in expired], AT_ONCE in (len(expired), *forgotten)

    def note(self, seen: Seen) -> None:
        """Remember when the store was last in use."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM clock")
            connection.execute("INSERT INTO clock VALUES (?, ?, ?, ?, ?)", values(seen))

    def replace(self, row: Row) -> None:
        """Put a row in the place of the one with its id; it is on disk when this returns."""
        with self._transaction():
            self._connection.execute(REPLACE, values(row))

    def mark_damaged(self, model_id: str) -> None:
        """Remember that a file is damaged."""
        row = self.row(model_id)
        if row is not None:
            self.replace(replace(row, state=DAMAGED))

    def page(self, count: int, after: tuple[float, str], now: float, wanted: Wanted) -> list[Row]:
        """Return up to `count` rows of a tenant, oldest first, after a creation time and id.

        One that was changed is left out.
        """
        terms = [("expire_time", ">", now), *wanted.terms]
        if wanted.model is not None:
            terms.append(("model", "=", wanted.model))
        conditions = "".join(f" AND {column} {test} ?" for column, test, _ in terms)
        found = self._connection.execute(
            "SELECT * FROM adapted_models WHERE tenant = ? AND (create_time, id) > (?, ?)"  # noqa: S608 -- fixed names
            f" AND NOT damaged{conditions} ORDER BY create_time, id",
            (wanted.tenant, *after, *(value for _, _, value in terms)),
        )
        whole = (row for each in found if (row := intact(Row, each)) is not None)
        return list(itertools.islice(whole, count))

    def rows(self) -> Iterator[tuple[int, object, Row | None]]:
        """Yield the place and the id of each row, and the row itself unless it was changed."""
        return self._scan("SELECT rowid, * FROM adapted_models NOT INDEXED", Row)

    def tombstones(self) -> Iterator[tuple[int, object, Tombstone | None]]:
        """Yield the place and the id of each tombstone, and itself unless it was changed."""
        return self._scan("SELECT rowid, * FROM tombstones NOT INDEXED", Tombstone)

    def requests(self) -> Iterator[tuple[int, object, AnsweredRequest | None]]:
        """Yield the place and the tenant of each request, and itself unless it was changed."""
        return self._scan("SELECT rowid, * FROM requests NOT INDEXED", AnsweredRequest)

    def seen(self) -> Seen | None:
        """Return when the store was last in use, None if that is unknown.

        If that was changed, the newest model tells: the store was in use when it was made.
        """
        found = self._connection.execute("SELECT * FROM clock").fetchone()
        if found is None:
            return None
        newest = self._connection.execute("SELECT max(create_time) FROM adapted_models").fetchone()
        seen = intact(Seen, found)
        return seen or (None if newest[0] is None else Seen("", newest[0], 0.0, 0.0))

    def change(
        self,
        rows: Sequence[Row] = (),
        tombstones: Sequence[Tombstone] = (),
        *,
        lost_rows: Sequence[int] = (),
        lost_tombstones: Sequence[int] = (),
        requests: Sequence[AnsweredRequest] = (),
        lost_requests: Sequence[int] = (),
    ) -> None:
        """Drop rows by their places, and put others, at once."""
        if not any((rows, tombstones, lost_rows, lost_tombstones, requests, lost_requests)):
            return
        lost = (
            (_DROP, lost_rows),
            (_DROP_TOMBSTONE, lost_tombstones),
            (_DROP_REQUEST, lost_requests),
        )
        with self._transaction() as connection:
            for statement, places in lost:
                connection.executemany(statement, [(place,) for place in places])
            connection.executemany(REPLACE, map(values, rows))
            connection.executemany(REPLACE_TOMBSTONE, map(values, tombstones))
            connection.executemany(REPLACE_REQUEST, map(values, requests))
            self._empty_answers((each.id,) for each in tombstones)

    def hold_room(self) -> None:
        """Keep room on the disk for later changes, so that they need none; a full disk has none.

        It is in the log, which is written again from its start, and in free pages of the index,
        which takes the log in.
        """
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if free >= LOG_PAGES // 2:
            return
        with suppress_full_disk():
            with self._transaction() as connection:
                connection.execute("INSERT INTO room VALUES (zeroblob(?))", (4096 * LOG_PAGES,))
            with self._transaction() as connection:
                connection.execute("DELETE FROM room")

    def use(self, tenant: str | None = None) -> tuple[int, int]:
        """Return the number of a tenant's models, or of all, and the sum of their files' bytes."""
        found = (
            self._connection.execute(_USE)
            if tenant is None
            else self._connection.execute(f"{_USE} WHERE tenant = ?", (tenant,))
        )
        count, size_bytes = found.fetchone()
        return count, size_bytes

    def use_by_tenant(self) -> dict[str, tuple[int, int]]:
        """Return what `use` does for each tenant that has models."""
        found = self._connection.execute(
            "SELECT tenant, count(*), sum(size_bytes) FROM adapted_models "
            "WHERE tenant IS NOT NULL GROUP BY tenant"
        )
        return {tenant: (count, size_bytes) for tenant, count, size_bytes in found}

    def _bury(
        self, found: Iterable[tuple[str, float, str | None]], end_time: float, *, deleted: bool
    ) -> None:
        buried = [
            Tombstone(each, time, end_time, int(deleted), tenant or "")
            for each, time, tenant in found
        ]
        ids = [(each.id,) for each in buried]
        self._connection.executemany(REPLACE_TOMBSTONE, map(values, buried))
        self._connection.executemany("DELETE FROM adapted_models WHERE id = ?", ids)
        self._empty_answers(ids)

    def _empty_answers(self, ids: Iterable[tuple[str]]) -> None:
        """Forget what was answered about models that are gone; a repetition still finds which."""
        for each in ids:
            for place, *found in self._connection.execute(_ANSWERS_OF, each).fetchall():
                request = intact(AnsweredRequest, found)
                self._connection.execute(_DROP_REQUEST, (place,))
                if request is not None:
                    emptied = replace(request, answer=b"")
                    self._connection.execute(REPLACE_REQUEST, values(emptied))

    def _scan(
        self, query: str, kind: type[Columns]
    ) -> Iterator[tuple[int, object, Columns | None]]:
        for place, *found in self._connection.execute(query):
            yield place, found[0], intact(kind, found)

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._connection)

    @contextmanager
    def _without_wait(self) -> Iterator[sqlite3.Connection]:
        """Change all that the block changes or nothing, on the disk with the next sync."""
        self._connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._transaction() as connection:
                yield connection
        finally:
            self._connection.execute("PRAGMA synchronous = FULL")
