"""`kshot train`: from a recipe to a bundle."""

import shlex
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import click

from kshot.trainer.commands.options import (
    choose_data_folder,
    choose_device,
    data_option,
    device_option,
)
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.datasets import read_dataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.progress import Progress
from kshot.trainer.recipe import Recipe
from kshot.trainer.recipe_files import load_recipe
from kshot.trainer.training import CHECKPOINT_FILE, TrainingReport, train

__all__ = ["command"]


@click.command("train")
@click.argument("recipe_name", metavar="RECIPE")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for checkpoint, recipe, TensorBoard scalars and the bundle.",
)
@data_option
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace one value of the recipe, as inner.step_count=3; may be repeated.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in DIR.")
@device_option
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=None,
    help="Compile the inner step.  [default: where that works]",
)
def command(
    recipe_name: str,
    out: Path,
    data_folder: Path | None,
    overrides: Sequence[str],
    resume: bool,
    device: str,
    compiled: bool | None,
) -> None:
    """Meta-train by RECIPE, a name from `kshot recipes` or a TOML file, and write a bundle.

    Prints the bundle's folder.
    """
    try:
        recipe = load_recipe(recipe_name, overrides)
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    folder = choose_data_folder(data_folder)
    chosen = choose_device(device)
    _check_out(out, resume)
    training_classes = _read(recipe, folder, "train")
    test_classes = _read(recipe, folder, "test")
    again = ["kshot", "train", recipe_name, "--out", str(out), "--data", str(folder)]
    again += [word for override in overrides for word in ("--set", override)]
    again += ["--device", device]
    if compiled is not None:
        again.append("--compile" if compiled else "--no-compile")
    with _Follower(out / CHECKPOINT_FILE, shlex.join([*again, "--resume"])) as follower:
        bundle_folder = train(
            recipe,
            training_classes,
            test_classes,
            out,
            resume=resume,
            device=chosen,
            compiled=compiled,
            report=follower.show_training,
            report_table=follower.show_table,
            say=follower.say,
        )
    if follower.idle:
        click.echo(f"the training in {out} was finished before: this is its bundle", err=True)
    click.echo(bundle_folder)


class _Follower:
    """Shows a training's progress, then its table's; makes of a signal one line and its exit code.

    SIGTERM interrupts as Ctrl-C does. ``again`` is the command that goes on from the checkpoint.
    """

    def __init__(self, checkpoint: Path, again: str) -> None:
        self.idle = True
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
        click.echo(sentence, err=True)

    def _show(self, progress: Progress, done: int, total: int, note: str = "") -> None:
        self.idle = False
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


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out is {out}, a file, wanted a folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise click.UsageError(
            f"--out is {out}, which is not empty, wanted an empty or new folder; to go on with the "
            "training in it, add --resume"
        )


def _read(recipe: Recipe, folder: Path, part: str) -> ImageDataset:
    with Progress(f"reading {recipe.data.dataset}", "images") as progress:
        return read_dataset(
            recipe.data, folder, part, input_spec=recipe.input, progress=progress.update
        )
