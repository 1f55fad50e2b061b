"""Shared by the commands: the server option, and printing results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

server_option = click.option(
    "--server",
    default="localhost:50051",
    envvar="KSHOT_SERVER",
    metavar="HOST:PORT",
    show_default=True,
    show_envvar=True,
    help="The server's address.",
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that each call may take.",
)
_UNBOUNDED = 1_000_000
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def print_document(document: object, *, aside: bool = False) -> None:
    """Print one JSON document on stdout, or on stderr where stdout holds something else."""
    click.echo(json.dumps(document), err=aside)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print the server's warnings on stderr, a line for each."""
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    justify: Literal["left", "right"] = "left",
) -> None:
    """Print a table on stdout; as wide as its content unless stdout is a terminal.

    `justify` places the columns after the first.
    """
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        # People copy the first column: an id or a path stays in one piece.
        first = index == 0
        table.add_column(
            heading, overflow="fold", no_wrap=first, justify="left" if first else justify
        )
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        unbounded = console.options.update(max_width=_UNBOUNDED)
        console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def time_text(time: datetime | None) -> str | None:
    """Write a time as RFC 3339 in UTC."""
    return None if time is None else time.isoformat(timespec="seconds").replace("+00:00", "Z")
