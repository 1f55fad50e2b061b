"""Pages of the documentation: tables are written between markers, the text by hand."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click

from kshot.local import write_file


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def replace_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """Put each text between `<!-- NAME: ... -->` and `<!-- end of NAME -->`, each on its own line.

    Raises `ClickException` unless the page has these markers exactly once.
    """
    for name, text in blocks.items():
        mark = re.escape(name)
        parts = re.split(rf"(?s)(<!-- {mark}: [^\n]*-->\n).*?(<!-- end of {mark} -->)", page)
        if len(parts) != 4:
            found = len(parts) // 3
            raise click.ClickException(f"markers of {name}: expected once in the page, got {found}")
        page = "{}{}\n{}\n\n{}{}".format(*parts[:2], text, *parts[2:])
    return page


def write_blocks(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace a page's blocks and say so."""
    write_file(path, replace_blocks(path.read_text(), blocks).encode())
    click.echo(f"{path.name}: tables are written", err=True)
