"""The tables of a store's index: made, checked, and brought from an earlier release to this one."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kshot.server.errors import StartError
from kshot.server.store.tables.earlier import read_earlier

SCHEMA_VERSION = 3
# At so many pages the index takes its log in.
LOG_PAGES = 128

# Queries use the columns; the record is the whole `AdaptedModelRecord` as JSON.
SCHEMA = (
    """CREATE TABLE adapted_models (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    create_time REAL NOT NULL,
    expire_time REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    record TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    damaged INTEGER NOT NULL,
    tenant TEXT,
    digest TEXT NOT NULL
)""",
    "CREATE INDEX adapted_models_by_age ON adapted_models (tenant, create_time, id)",
    "CREATE INDEX adapted_models_by_expiry ON adapted_models (expire_time)",
    "CREATE INDEX adapted_models_by_size ON adapted_models (tenant, size_bytes)",
    """CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    expire_time REAL NOT NULL,
    end_time REAL NOT NULL,
    deleted INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    digest TEXT NOT NULL
)""",
    "CREATE INDEX tombstones_by_age ON tombstones (end_time)",
    """CREATE TABLE requests (
    tenant TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    adapted_model TEXT NOT NULL,
    answer BLOB NOT NULL,
    end_time REAL NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (tenant, request_id)
)""",
    "CREATE INDEX requests_by_age ON requests (end_time)",
    "CREATE INDEX requests_by_model ON requests (adapted_model)",
    """CREATE TABLE clock (
    boot TEXT NOT NULL,
    wall REAL NOT NULL,
    elapsed REAL NOT NULL,
    skipped REAL NOT NULL,
    digest TEXT NOT NULL
)""",
    "CREATE TABLE room (content BLOB NOT NULL)",
)
# The column `damaged` has the state of a `Row`.
# Columns in the order of the fields of `Row`, `Tombstone` and `AnsweredRequest`, and a digest.
REPLACE = "REPLACE INTO adapted_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
REPLACE_TOMBSTONE = "REPLACE INTO tombstones VALUES (?, ?, ?, ?, ?, ?)"
REPLACE_REQUEST = "REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)"

# What SQLite finds in rows and in its indices of them, not in pages.
_OF_ROWS = re.compile(
    r"row \d+ missing|wrong # of entries|non-unique entry|.* value in |rowid not at"
)

# Names of tables and texts with a flipped bit may be no UTF-8.
DAMAGE = (sqlite3.DatabaseError, UnicodeError)


class IndexDamaged(StartError):  # noqa: N818 -- it states a condition, as all errors do
    """The index cannot be used, but `kshot store repair` can make a new one."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: the index is damaged ({problem}); stop the server and run "
            f"`kshot store repair {path.parent}`, which loses no model that is whole"
        )


class NewerIndex(StartError):  # noqa: N818 -- as above
    """A newer release wrote the index, unless a bit of its version is flipped."""

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(
            f"{path}: expected schema version 1 to {SCHEMA_VERSION}, got {version}: a newer "
            "release of kshot wrote this store; start that release or choose another folder; "
            f"if none did, a bit is damaged: run `kshot store repair {path.parent}`"
        )


def prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """Check an index that was opened, and bring it to this release; raise `StartError`."""
    try:
        _prepare(connection, path, create=create)
    except DAMAGE as error:
        raise _start_error(path, error) from error


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Change all that the block changes, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    # No other program gets between; the log's index stays in memory.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    # Power may fail at any time: FULL waits for the log at each commit.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= SCHEMA_VERSION:
        raise NewerIndex(path, version)
    problems = [text for (text,) in connection.execute("PRAGMA integrity_check")]
    for problem in problems:
        if problem != "ok" and not _OF_ROWS.match(problem):
            raise IndexDamaged(path, problem)
    if version == 0 and not create:
        raise IndexDamaged(path, "expected the index of the stored models, got an empty file")
    if version == 0:
        with transaction(connection):
            _make_schema(connection)
    elif version < SCHEMA_VERSION:
        with transaction(connection):
            earlier = read_earlier(connection, version)
            for table in earlier.tables:
                connection.execute(f"DROP TABLE {table}")
            _make_schema(connection)
            connection.executemany(REPLACE, earlier.rows)
            connection.executemany(REPLACE_TOMBSTONE, earlier.tombstones)
            connection.executemany("INSERT INTO clock VALUES (?, ?, ?, ?, ?)", earlier.clock)
    # VACUUM changes their order, and ANALYZE adds SQLite's own.
    found = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*'"
    )
    if sorted(sql for (sql,) in found) != sorted(SCHEMA):
        raise IndexDamaged(path, "its tables are not those of this release")
    if problems != ["ok"]:  # the digests tell which row is to blame
        connection.execute("REINDEX")


def _make_schema(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _start_error(path: Path, error: Exception) -> StartError:
    """Say what keeps the index from being opened, and what to do."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StartError(f"{path}: in use by another program; close it and start again")
    if code == sqlite3.SQLITE_FULL:
        return StartError(f"{path}: the disk is full; free some space and start again")
    readonly = code == sqlite3.SQLITE_READONLY and not os.access(path, os.W_OK)
    if readonly or code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR):
        return StartError(
            f"{path}: cannot open the index: {error}; check the disk, and make the folder writable"
        )
    return IndexDamaged(path, str(error))
