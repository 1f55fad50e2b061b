"""A list of rows as JSON, a row a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kshot.bundle import replace_file
from kshot.trainer.errors import DataError

__all__ = ["Row", "read_row_file", "write_row_file"]

Row = Mapping[str, object]


def read_row_file(
    path: Path, keys: Sequence[str], is_whole: Callable[[Row], bool] = lambda _row: True
) -> list[Row]:
    """Read the rows of a file, none where it is missing.

    Raises ``DataError`` for a file that cannot be read, or whose content is anything else than a
    list of rows that have these keys and are whole.
    """
    try:
        rows = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"results {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and set(keys) <= set(row) and is_whole(row) for row in rows
    ):
        raise DataError(f"results {path} are no list of rows, each with {', '.join(keys)}")
    return rows


def write_row_file(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, all or nothing; raises ``DataError`` when the disk does not take them."""
    lines = ",\n".join(f" {json.dumps(row)}" for row in rows)
    try:
        replace_file(path, f"[\n{lines}\n]\n".encode())
    except OSError as error:
        raise DataError(f"results {path} could not be written: {error.strerror}") from error
