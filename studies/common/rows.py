"""What a study measures, as data: the rows of `studies/rows/STUDY.toml`."""

import tomllib
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from kshot.bundle.document import parse

ROWS = Path(__file__).parents[1] / "rows"
Kind = TypeVar("Kind")


def read_rows(study: str, kind: type[Kind]) -> Mapping[str, Kind]:
    """Read the rows of a study by their names, which are the first cells.

    A table has `columns`, `rows`, and values for all of its rows; above the tables are those for
    all tables. The column `tasks.way` is the field `way` of `tasks`. A row may leave out its last
    columns.
    """
    shared, found = tomllib.loads((ROWS / f"{study}.toml").read_text()), {}
    for table in shared.pop("tables"):
        columns, rows = table.pop("columns"), table.pop("rows")
        for cells in rows:
            values = deepcopy({**shared, **table})
            for column, cell in zip(columns, cells, strict=False):
                group, _, key = column.rpartition(".")
                (values.setdefault(group, {}) if group else values)[key] = cell
            found[cells[0]] = parse(kind, values)
    return found
