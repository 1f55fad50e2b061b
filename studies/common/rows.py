"""What a study measures, as data: the rows of `studies/rows/NAME.toml`."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from kshot.bundle.document import parse

ROWS = Path(__file__).parents[1] / "rows"
Kind = TypeVar("Kind")


def read_rows(name: str, kind: type[Kind], table: str | None = None) -> Mapping[str, Kind]:
    """Read the rows of a file, or of one of its tables, by their names: the first cells.

    A file is a table or has several `tables`, with values for all of them above. A table has
    `columns`, `rows`, and values for all of its rows. The column `tasks.way` is the field `way` of
    `tasks`. A row may leave out its last columns.
    """
    shared, found = tomllib.loads((ROWS / f"{name}.toml").read_text()), {}
    tables = shared.pop("tables", {"": {}})
    for own in tables.values() if table is None else [tables[table]]:
        common = {**shared, **own}
        columns, rows = common.pop("columns"), common.pop("rows")
        for cells in rows:
            values = deepcopy(common)
            for column, cell in zip(columns, cells, strict=False):
                group, _, key = column.rpartition(".")
                (values.setdefault(group, {}) if group else values)[key] = cell
            found[cells[0]] = parse(kind, values)
    return found
