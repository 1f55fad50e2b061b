"""How a benchmark says what it measured: a table for people, one JSON document for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table

__all__ = ["print_document", "print_report", "say"]

_UNBOUNDED = 1_000_000


def print_document(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, allow_nan=False))


def print_report(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
) -> None:
    """Print a table on stdout, its first column to the left, and sentences below it.

    Where stdout is no terminal the table is as wide as its content.
    """
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=_UNBOUNDED)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)


def say(sentence: str) -> None:
    """Tell on stderr what is being done."""
    click.echo(sentence, err=True)
