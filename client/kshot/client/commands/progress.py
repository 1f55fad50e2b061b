"""Progress of long work: on stderr, and only where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from kshot.local import printable


def watched() -> bool:
    """Tell whether somebody sees progress."""
    return sys.stderr.isatty()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show what is waited for, and for how long, until the block ends."""
    if not watched():
        yield
        return
    with _bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as shown:
        shown.add_task(what, total=None)
        yield


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done; yield what counts further items."""
    if not watched():
        yield lambda _count: None
        return
    with _bar(*_columns(MofNCompleteColumn())) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


@contextmanager
def following(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show steps, which somebody must see; yield what takes a text, the steps done and all of them.

    0 for all means that their number is not known.
    """
    with _bar(*_columns(MofNCompleteColumn())) as shown:
        task = shown.add_task(what, total=None)

        def tell(text: str, done: int, total: int) -> None:
            shown.update(task, description=printable(text), completed=done, total=total or None)

        yield tell


@contextmanager
def transferring(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show how much of a file has gone over; yield what takes those bytes and all of them."""
    if not watched():
        yield None
        return
    with _bar(*_columns(DownloadColumn())) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _columns(amount: ProgressColumn) -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn()


def _bar(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=Console(stderr=True), transient=True)
