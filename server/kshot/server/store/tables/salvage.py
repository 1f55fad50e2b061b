"""Makes a new index of what a damaged one still says; the files say the rest."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kshot.bundle import sync_folder
from kshot.server.event_log import log_event
from kshot.server.store.ownership import private_folder
from kshot.server.store.tables.earlier import ROWS_1, ROWS_2, TOMBSTONES_1, row_1, tombstones_1
from kshot.server.store.tables.index import StoreIndex
from kshot.server.store.tables.rows import AnsweredRequest, Row, Seen, Tombstone, intact
from kshot.server.store.tables.schema import DAMAGE, SCHEMA, SCHEMA_VERSION, NewerIndex

_MAGIC = b"SQLite format 3\0"

Named = TypeVar("Named", Row, Tombstone)


def rebuild(index: Path, aside: Path) -> StoreIndex:
    """Put a new index in the place of a damaged one, which moves `aside`, and open it.

    Raises `StartError`, `OSError` and `sqlite3.Error`; then the damaged one is still there.
    """
    fresh, log = (index.with_name(index.name + end) for end in (".new", "-wal"))
    for path in (fresh, fresh.with_name(f"{fresh.name}-wal")):
        path.unlink(missing_ok=True)
    scratch = index.with_name(".repair")
    shutil.rmtree(scratch, ignore_errors=True)  # of a repair that was killed
    scratch.mkdir(mode=0o700)
    try:
        found = _read(copy_index(index, scratch), index)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    made = StoreIndex(fresh, create=True)
    try:
        made.change(found.rows, found.tombstones, requests=found.requests)
        if found.seen is not None:
            made.note(found.seen)
    finally:
        made.close()
    names = (aside / f"index-{number}" for number in itertools.count(1))
    kept = next(name for name in names if not os.path.lexists(name))
    private_folder(kept)
    if index.exists():
        shutil.copy2(index, kept / index.name)
    if log.exists():  # it must not meet the new index
        log.rename(kept / log.name)
    for folder in (kept, aside):
        sync_folder(folder)
    fresh.replace(index)
    sync_folder(index.parent)
    counts = {"rows": len(found.rows), "tombstones": len(found.tombstones)}
    log_event("index_rebuilt", logging.WARNING, **counts)
    return StoreIndex(index, create=False)


def copy_index(index: Path, folder: Path) -> Path:
    """Copy an index and its log, to read them without a change; return the copy's path."""
    for end in ("", "-wal"):
        path = index.with_name(index.name + end)
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, folder / path.name)
    return folder / index.name


@dataclass(frozen=True)
class _Whole:
    """What is whole in a damaged index."""

    rows: list[Row]
    tombstones: list[Tombstone]
    requests: list[AnsweredRequest] = field(default_factory=list)
    seen: Seen | None = None


def _read(copy: Path, index: Path) -> _Whole:
    """Return what is whole in a copy of an index of any release."""
    with copy.open("ab"):  # a missing index is an empty one
        pass
    with copy.open("r+b") as file:
        if file.read(1):
            file.seek(0)
            file.write(_MAGIC)
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    try:
        if _release(connection) > SCHEMA_VERSION:
            raise NewerIndex(index, _release(connection))
        if not _has_digests(connection):
            rows = map(row_1, _all(connection, ROWS_1, "adapted_models"))
            graves = _all(connection, TOMBSTONES_1, "tombstones")
            return _Whole(_unique(rows), _unique(tombstones_1(graves)))
        requests = (
            intact(AnsweredRequest, each) for each in _all(connection, "SELECT *", "requests")
        )
        clocks = (intact(Seen, each) for each in _all(connection, "SELECT *", "clock"))
        return _Whole(
            _unique(intact(Row, each) for each in _all(connection, "SELECT *", "adapted_models")),
            _unique(intact(Tombstone, each) for each in _all(connection, "SELECT *", "tombstones")),
            [each for each in requests if each is not None],
            next(filter(None, clocks), None),
        )
    finally:
        connection.close()


def _has_digests(connection: sqlite3.Connection) -> bool:
    """Tell whether an index is not of schema 1."""
    with suppress(*DAMAGE):
        connection.execute("SELECT digest FROM adapted_models LIMIT 1")
        return True
    return False


def _release(connection: sqlite3.Connection) -> int:
    """Return the schema's version; a flipped bit in the number does not make it a newer one."""
    with suppress(*DAMAGE):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}
        return SCHEMA_VERSION if tables & {SCHEMA[0], ROWS_2} else int(version)
    return SCHEMA_VERSION


def _all(connection: sqlite3.Connection, select: str, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table up to the first damaged page, and those behind the last."""
    seen = set()
    for order in ("ASC", "DESC"):
        query = f"{select} FROM {table} NOT INDEXED ORDER BY rowid {order}"
        with suppress(*DAMAGE):
            for found in connection.execute(query):
                if found not in seen:
                    seen.add(found)
                    yield found


def _unique(found: Iterable[Named | None]) -> list[Named]:
    return list({each.id: each for each in found if each is not None}.values())
