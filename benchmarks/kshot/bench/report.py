"""The table that a benchmark prints for people, and its progress."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from kshot.client.commands.options import print_table


@dataclass(frozen=True)
class Report:
    """A table with a title, and the sentences below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def print(self) -> None:
        """Print the report on stdout."""
        print_table(self.headings, self.rows, title=self.title, justify="right")
        for note in self.notes:
            click.echo(note)


def say(sentence: str) -> None:
    """Print progress on stderr."""
    click.echo(sentence, err=True)
