"""The table that a benchmark prints for people, and its progress."""

from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.table import Table

_UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Report:
    """A table with a title, and the sentences below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def print(self) -> None:
        """Print the report on stdout; where that is no terminal, as wide as its content."""
        table = Table(title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            unbounded = console.options.update(max_width=_UNBOUNDED)
            console.width = max(console.width, console.measure(table, options=unbounded).maximum)
        console.print(table)
        for note in self.notes:
            console.print(note, soft_wrap=True)


def say(sentence: str) -> None:
    """Print progress on stderr."""
    click.echo(sentence, err=True)
