"""The store's index: one SQLite row per adapted model, and a tombstone for each that is gone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kshot.server.errors import StartError
from kshot.server.request.options import AdaptOptions
from kshot.server.store.adapted_model import AdaptedModelRecord

SCHEMA_VERSION = 1

# Queries use the columns; the record is the whole `AdaptedModelRecord` as JSON.
_SCHEMA = """
CREATE TABLE adapted_models (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    create_time REAL NOT NULL,
    expire_time REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    record TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX adapted_models_by_age ON adapted_models (create_time, id);
CREATE INDEX adapted_models_by_expiry ON adapted_models (expire_time);
CREATE INDEX adapted_models_by_size ON adapted_models (size_bytes);
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    expire_time REAL NOT NULL,
    end_time REAL NOT NULL,
    deleted INTEGER NOT NULL
);
CREATE INDEX tombstones_by_age ON tombstones (end_time);
"""


@dataclass(frozen=True)
class Row:
    """An adapted model with the SHA-256 (hex) of its file, and whether the file is damaged."""

    model: AdaptedModelRecord
    sha256: str
    damaged: bool


@dataclass(frozen=True)
class Tombstone:
    """What the index remembers of a removed adapted model; Unix seconds."""

    expire_time: float
    deleted: bool


class StoreIndex:
    """The tables of a store, for one thread at a time; every method raises `sqlite3.Error`."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the index, or `create` a missing one; raise `StartError` if it is not usable."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path, create=create)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def insert(self, model: AdaptedModelRecord, sha256: str) -> None:
        """Add a row; it is on disk when this returns."""
        record = json.dumps({**vars(model), "options": model.options.document()}, allow_nan=False)
        times = (model.create_time, model.expire_time)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO adapted_models "
                "(id, model, create_time, expire_time, size_bytes, record, sha256) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (model.id, model.model, *times, model.size_bytes, record, sha256),
            )

    def row(self, model_id: str) -> Row | None:
        """Return the row of an id, expired or not."""
        found = self._connection.execute(
            "SELECT record, sha256, damaged FROM adapted_models WHERE id = ?", (model_id,)
        ).fetchone()
        return None if found is None else Row(_model(found[0]), found[1], bool(found[2]))

    def tombstone(self, model_id: str) -> Tombstone | None:
        """Return what is remembered of a removed id."""
        found = self._connection.execute(
            "SELECT expire_time, deleted FROM tombstones WHERE id = ?", (model_id,)
        ).fetchone()
        return None if found is None else Tombstone(found[0], bool(found[1]))

    def bury(self, model_id: str, end_time: float) -> None:
        """Replace a row by a tombstone that says deleted."""
        self._bury("id = ?", model_id, end_time, deleted=True)

    def bury_expired(self, now: float) -> list[str]:
        """Replace all expired rows by tombstones, and return their ids."""
        return self._bury("expire_time <= ?", now, now, deleted=False)

    def purge(self, end_time: float) -> None:
        """Forget tombstones of `end_time` or before."""
        with self._transaction():
            self._connection.execute("DELETE FROM tombstones WHERE end_time <= ?", (end_time,))

    def mark_damaged(self, model_id: str) -> None:
        """Remember that a file is damaged."""
        with self._transaction():
            self._connection.execute(
                "UPDATE adapted_models SET damaged = 1 WHERE id = ?", (model_id,)
            )

    def page(
        self, count: int, after: tuple[float, str], now: float, model: str | None
    ) -> list[AdaptedModelRecord]:
        """Return up to `count` models, oldest first, after a creation time and id."""
        found = self._connection.execute(
            "SELECT record FROM adapted_models WHERE (create_time, id) > (?, ?) "
            "AND expire_time > ? AND NOT damaged AND (? IS NULL OR model = ?) "
            "ORDER BY create_time, id LIMIT ?",
            (*after, now, model, model, count),
        )
        return [_model(record) for (record,) in found]

    def ids(self) -> dict[str, bool]:
        """Return every id and whether its file is known to be damaged."""
        found = self._connection.execute("SELECT id, damaged FROM adapted_models")
        return {model_id: bool(damaged) for model_id, damaged in found}

    def use(self) -> tuple[int, int]:
        """Return the number of models and the sum of their files' bytes."""
        count, size_bytes = self._connection.execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM adapted_models"
        ).fetchone()
        return count, size_bytes

    def _prepare(self, path: Path, *, create: bool) -> None:
        # Power may fail at any time: FULL waits for the log at each commit.
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise StartError(
                f"{path}: expected schema version {SCHEMA_VERSION}, got {version}: "
                "another release of kshot wrote this store"
            )
        (state,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise StartError(f"{path}: the index is damaged: {state}")
        if version == 0 and not create:
            raise StartError(f"{path}: expected the index of the stored models, got an empty file")
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _bury(
        self, condition: str, value: str | float, end_time: float, *, deleted: bool
    ) -> list[str]:
        rows = f"FROM adapted_models WHERE {condition}"
        with self._transaction():
            found = self._connection.execute(f"SELECT id {rows}", (value,)).fetchall()
            self._connection.execute(
                "INSERT OR REPLACE INTO tombstones (id, expire_time, end_time, deleted) "
                f"SELECT id, expire_time, ?, ? {rows}",
                (end_time, deleted, value),
            )
            self._connection.execute(f"DELETE {rows}", (value,))
        return [model_id for (model_id,) in found]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _model(record: str) -> AdaptedModelRecord:
    fields = json.loads(record)
    fields["class_names"] = tuple(fields["class_names"])
    fields["options"] = AdaptOptions.from_document(fields["options"])
    return AdaptedModelRecord(**fields)
