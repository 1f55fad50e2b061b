"""Indices of schema 1, which have no digests: what they hold as rows of this release."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from kshot.server.store.rows import Row, Tombstone

ROWS = "SELECT id, model, create_time, expire_time, size_bytes, record, sha256, damaged"
TOMBSTONES = "SELECT id, expire_time, end_time, deleted"


def read_earlier(connection: sqlite3.Connection) -> tuple[list[Row], list[Tombstone]]:
    """Return everything in an index of schema 1; raise `sqlite3.Error`.

    A row that contradicts itself is damaged.
    """
    rows = connection.execute(f"{ROWS} FROM adapted_models").fetchall()
    tombstones = connection.execute(f"{TOMBSTONES} FROM tombstones").fetchall()
    return [row_of(found) for found in rows], list(tombstones_of(tombstones))


def row_of(found: Sequence[Any]) -> Row:
    """Return a row of schema 1, damaged if its record and its columns differ."""
    row = Row(*found)
    try:
        model = row.adapted_model
    except ValueError:
        model = None
    if model is not None and (
        (model.id, model.model, model.create_time, model.expire_time, model.size_bytes)
        == (row.id, row.model, row.create_time, row.expire_time, row.size_bytes)
    ):
        return row
    times = (row.create_time, row.expire_time)
    return Row.unknown(str(row.id), times if all(isinstance(t, float) for t in times) else (0, 0))


def tombstones_of(found: Iterable[Sequence[Any]]) -> Iterable[Tombstone]:
    """Yield the tombstones of schema 1."""
    for columns in found:
        yield Tombstone(*columns)
