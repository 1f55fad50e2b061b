"""A long training on a terminal: its progress, and signals turned into one line."""

import signal
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import click

from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.progress import Progress

__all__ = ["Follower"]


class Follower:
    """Shows a training's progress, then its table's; makes of a signal one line and its exit code.

    SIGTERM interrupts as Ctrl-C does. ``again`` is the command that goes on from the checkpoint.
    A ``silent`` one shows nothing, and ends with the exit code alone.
    """

    def __init__(self, checkpoint: Path, again: str, *, silent: bool = False) -> None:
        self.idle = True
        self._silent = silent
        self._checkpoint = checkpoint
        self._again = again
        self._training = Progress("training", "meta-iterations")
        self._table = Progress("measuring the bundle", "tasks")
        self._shown: Progress | None = None
        self._bars = ExitStack()
        self._refusal = _Interrupted

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.close()
        signal.signal(signal.SIGTERM, self._handler)
        if isinstance(error, KeyboardInterrupt) and self._silent:
            raise click.exceptions.Exit(self._refusal.exit_code) from error
        if isinstance(error, KeyboardInterrupt):
            hint = f"; to go on from here: {self._again}" if self._checkpoint.exists() else ""
            raise self._refusal(hint) from error

    def show_training(self, report: TrainingReport) -> None:
        """Show how far the meta-iterations are."""
        note = f"{report.meta_iterations_per_second:.1f}/s, loss {report.loss:.3f}"
        self._show(self._training, report.meta_iteration, report.meta_iterations, note)

    def show_table(self, done: int, total: int) -> None:
        """Show how far the bundle's table is."""
        self._show(self._table, done, total)

    def say(self, sentence: str) -> None:
        """Show a sentence."""
        if not self._silent:
            click.echo(sentence, err=True)

    def _show(self, progress: Progress, done: int, total: int, note: str = "") -> None:
        self.idle = False
        if self._silent:
            return
        if self._shown is not progress:
            self._bars.close()  # a terminal holds one bar
            self._shown = self._bars.enter_context(progress)
        progress.update(done, total, note)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._refusal = _Terminated
        raise KeyboardInterrupt


class _Interrupted(click.ClickException):
    """SIGINT ended the training; the exit code is a shell's for that signal."""

    number = signal.SIGINT
    exit_code = 128 + number

    def __init__(self, hint: str) -> None:
        super().__init__(f"stopped by {self.number.name}{hint}")


class _Terminated(_Interrupted):
    """SIGTERM ended it."""

    number = signal.SIGTERM
    exit_code = 128 + number
