"""A training on a terminal: its progress, and the message when a signal stops it."""

import signal
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self

import click

from kshot.trainer.loop.run import TrainingReport
from kshot.trainer.output.progress import Progress


class Follower:
    """Shows the progress of a training, then of its table; turns a signal into one line.

    SIGTERM interrupts as Ctrl-C does. `again` is the command that continues from the checkpoint,
    once there is one; without a checkpoint's path it always can.
    A `silent` follower shows nothing and ends with the exit code alone.
    """

    def __init__(self, checkpoint: Path | None, again: str, *, silent: bool = False) -> None:
        self.idle = True
        self._silent = silent
        self._checkpoint = checkpoint
        self._again = again
        self._training = Progress("training", "meta-iterations")
        self._table = Progress("measuring the bundle", "tasks")
        self._shown: Progress | None = None
        self._bars = ExitStack()
        self._signal = signal.SIGINT

    def __enter__(self) -> Self:
        self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._bars.close()
        signal.signal(signal.SIGTERM, self._handler)
        if not isinstance(error, KeyboardInterrupt):
            return
        code = 128 + self._signal  # a shell's for that signal
        if self._silent:
            raise click.exceptions.Exit(code) from error
        continues = self._checkpoint is None or self._checkpoint.exists()
        hint = f"; to continue: {self._again}" if continues else ""
        stopped = click.ClickException(f"stopped by {self._signal.name}{hint}")
        stopped.exit_code = code  # type: ignore[misc] # as click does
        raise stopped from error

    def show_training(self, report: TrainingReport) -> None:
        """Show the progress of the meta-iterations."""
        note = f"{report.meta_iterations_per_second:.1f}/s, loss {report.loss:.3f}"
        self._show(self._training, report.meta_iteration, report.meta_iterations, note)

    def show_table(self, done: int, total: int) -> None:
        """Show the progress of the bundle's table."""
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
        self._signal = signal.SIGTERM
        raise KeyboardInterrupt
