"""Progress on stderr: a bar on a terminal, otherwise a line every 30 seconds."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows the progress of one work from its first update until the context ends.

    `unit` is what is counted, in the plural. If stderr is not a terminal, a line is written with
    the first update, then every 30 seconds, and with the last.
    """

    def __init__(
        self,
        description: str,
        unit: str,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description = description
        self._unit = unit
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._line_at = 0.0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=None, start=False, note="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            self._bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, with a note such as a rate or a loss."""
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
            self._line_at = now
            self._bar.start()
            self._bar.start_task(self._task)
        self._bar.update(self._task, completed=done, total=total, note=note)
        if not self._console.is_terminal and (now >= self._line_at or done == total):
            self._line_at = now + SECONDS_BETWEEN_LINES
            progress = f"{self._description}: {done}/{total} {self._unit}"
            parts = [progress, note, self._remaining(now, done, total)]
            line = ", ".join(part for part in parts if part)
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _remaining(self, now: float, done: int, total: int) -> str:
        """Extrapolate from the first update; resumed work starts anywhere."""
        if self._first is None or done in (self._first[1], total):
            return ""
        started, first_done = self._first
        seconds = (now - started) / (done - first_done) * (total - done)
        return f"ETA {timedelta(seconds=round(seconds))}"
