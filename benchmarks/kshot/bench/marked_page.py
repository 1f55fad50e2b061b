"""A page of Markdown whose tables are written between markers, and whose text by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kshot.bundle import replace_file
from kshot.trainer.errors import DataError

__all__ = ["replace_blocks", "table", "write_blocks"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table of Markdown; an empty first row of dashes follows the head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """Put each text between the markers of its name, a line each.

    These are ``<!-- NAME: ... -->``, with anything after the colon, and ``<!-- end of NAME -->``.
    Raises ``DataError`` for a name whose markers the page has not, or has twice.
    """
    for name, text in blocks.items():
        pattern = rf"(<!-- {re.escape(name)}: [^\n]*-->\n).*?(<!-- end of {re.escape(name)} -->)"
        found = re.findall(pattern, page, flags=re.DOTALL)
        if len(found) != 1:
            raise DataError(
                f"the page has the markers of {name} {len(found)} times, wanted "
                f"<!-- {name}: ... --> and <!-- end of {name} --> once"
            )
        start, end = found[0]
        page = re.sub(pattern, lambda _found: f"{start}\n{text}\n\n{end}", page, flags=re.DOTALL)  # noqa: B023 -- used at once
    return page


def write_blocks(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace a page's blocks; the file is written whole or stays what it was.

    Raises ``DataError`` when the file cannot be read or written, or lacks markers.
    """
    try:
        page = replace_blocks(path.read_text(), blocks)
        replace_file(path, page.encode())
    except OSError as error:
        raise DataError(f"page {path} could not be written: {error.strerror}") from error
