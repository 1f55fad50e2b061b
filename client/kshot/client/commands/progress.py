"""Progress of long work: on stderr, and only where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show what is waited for, and for how long, until the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    with _bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as shown:
        shown.add_task(what, total=None)
        yield


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how much of `total` is done; yield what counts further items."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with _bar(*columns) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


def _bar(
    *columns: SpinnerColumn | TextColumn | BarColumn | MofNCompleteColumn | TimeElapsedColumn,
) -> Progress:
    return Progress(*columns, console=Console(stderr=True), transient=True)
