"""What indices of earlier releases hold, as rows of this release's tables.

Schema 1 had no digests, schema 2 no tenants: what they hold belongs to the tenant "".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kshot.server.store.tables.rows import Row, Seen, Tombstone, Value, intact, values

Values = tuple[Value, ...]

ROWS_1 = "SELECT id, model, create_time, expire_time, size_bytes, record, sha256, damaged"
TOMBSTONES_1 = "SELECT id, expire_time, end_time, deleted"

# The text of a table of schema 2, which tells it although a bit of its version is flipped.
ROWS_2 = """CREATE TABLE adapted_models (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    create_time REAL NOT NULL,
    expire_time REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    record TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    damaged INTEGER NOT NULL,
    digest TEXT NOT NULL
)"""


@dataclass(frozen=True)
class Earlier:
    """The tables of an earlier index, and the columns of their rows in tables of this release."""

    tables: tuple[str, ...]
    rows: list[Values]
    tombstones: list[Values]
    clock: list[Values]


def read_earlier(connection: sqlite3.Connection, version: int) -> Earlier:
    """Return everything in an index of schema 1 or 2; raise `sqlite3.Error`.

    A row of schema 1 that contradicts itself is damaged. Of one of schema 2 that was changed the id
    is left, without a digest, so that it counts as changed: its file says the rest.
    """
    if version == 1:
        return Earlier(
            tables=("adapted_models", "tombstones"),
            rows=[values(row_1(each)) for each in _all(connection, ROWS_1, "adapted_models")],
            tombstones=[
                values(each) for each in tombstones_1(_all(connection, TOMBSTONES_1, "tombstones"))
            ],
            clock=[],
        )
    return Earlier(
        tables=("adapted_models", "tombstones", "clock", "room"),
        rows=[
            _columns(intact(Row, each), Row(_text(each[0]), "", 0.0, 0.0, 0, "", ""))
            for each in _all(connection, "SELECT *", "adapted_models")
        ],
        tombstones=[
            _columns(intact(Tombstone, each), Tombstone(_text(each[0]), 0.0, 0.0, 0))
            for each in _all(connection, "SELECT *", "tombstones")
        ],
        clock=[
            _columns(intact(Seen, each), Seen("", 0.0, 0.0, 0.0))
            for each in _all(connection, "SELECT *", "clock")
        ],
    )


def row_1(found: Sequence[Any]) -> Row:
    """Return a row of schema 1, damaged if its record and its columns differ."""
    row = Row(*found)
    try:
        model = row.adapted_model
    except ValueError:
        model = None
    whole = all(_text(each) == each for each in found if isinstance(each, str))
    if (
        whole
        and model is not None
        and (
            (model.id, model.model, model.create_time, model.expire_time, model.size_bytes)
            == (row.id, row.model, row.create_time, row.expire_time, row.size_bytes)
        )
    ):
        return replace(row, tenant=model.tenant)
    times = (row.create_time, row.expire_time)
    return Row.unknown(_text(row.id), times if all(isinstance(t, float) for t in times) else (0, 0))


def tombstones_1(found: Iterable[Sequence[Any]]) -> list[Tombstone]:
    """Return tombstones of schema 1, without those whose id is lost."""
    return [Tombstone(*each) for each in found if _text(each[0])]


def _columns(row: Row | Tombstone | Seen | None, lost: Row | Tombstone | Seen) -> Values:
    return (*values(lost)[:-1], "") if row is None else values(row)


def _text(found: object) -> str:
    """Return a text, "" where a flipped bit left no UTF-8: SQLite takes no other."""
    text = str(found)
    try:
        text.encode()
    except UnicodeEncodeError:
        return ""
    return text


def _all(connection: sqlite3.Connection, select: str, table: str) -> list[Any]:
    return connection.execute(f"{select} FROM {table} NOT INDEXED").fetchall()
