"""Results that are gathered row by row, from runs on some of the sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.common.results import Provenance, Result, Row, read_result, result_path, write_result

STUDY = "pictures"
# Rows by trial and contender: the first columns of each such result.
Named = Mapping[tuple[str, str], Row]


def read_rows(name: str, folder: Path) -> Named:
    """Return the rows of a result by trial and contender; none where it was not measured."""
    path = result_path(STUDY, name, folder)
    rows = read_result(path).rows if path.exists() else ()
    return {(row["trial"], row["contender"]): row for row in rows}


def add_rows(name: str, made_with: Provenance, rows: Sequence[Row], folder: Path) -> None:
    """Put rows into a result, in the place of those of the same names; the others stay."""
    new = {(row["trial"], row["contender"]): row for row in rows}
    columns = list(rows[0])
    kept = {key: row for key, row in read_rows(name, folder).items() if list(row) == columns}
    result = Result(STUDY, name, made_with, {}, list({**kept, **new}.values()))
    write_result(result_path(STUDY, name, folder), result)
