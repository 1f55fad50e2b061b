"""`kshot train`: from a recipe to a bundle."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch

from kshot.trainer.commands.follower import Follower
from kshot.trainer.commands.options import (
    choose_data_folder,
    choose_device,
    data_option,
    device_option,
)
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import read_dataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.loop.image_run import train
from kshot.trainer.loop.run import CHECKPOINT_FILE
from kshot.trainer.loop.workers import Workers, joined_workers
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.sine.run import RESULT_FILE, train_sine

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

    Prints the bundle's folder; a recipe on sine waves ends with its errors, in a JSON file whose
    path is printed. Under `torchrun --nproc-per-node N --no-python kshot train ...` N processes
    share the tasks of each meta-batch.
    """
    try:
        recipe = load_recipe(recipe_name, overrides)
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    again = ["kshot", "train", recipe_name, "--out", str(out)]
    again += [] if data_folder is None else ["--data", str(data_folder)]
    again += [word for override in overrides for word in ("--set", override)]
    again += ["--device", device]
    if compiled is not None:
        again.append("--compile" if compiled else "--no-compile")
    folder = None if isinstance(recipe, SineRecipe) else choose_data_folder(data_folder)
    chosen = choose_device(device)
    with joined_workers(chosen) as workers:
        if workers.first:
            _check_out(out, resume)
        run = _Run(out, resume, chosen, compiled, workers)
        resuming = shlex.join([*_launcher(workers), *again, "--resume"])
        checkpoint = out / CHECKPOINT_FILE
        with Follower(checkpoint, resuming, silent=not workers.first) as follower:
            if isinstance(recipe, SineRecipe):
                result = _train_sine(recipe, run, follower)
            else:
                assert folder is not None  # noqa: S101 -- chosen above
                result = _train_images(recipe, folder, run, follower)
    if not workers.first:
        return
    if follower.idle:
        click.echo(f"the training in {out} was finished before: this is its result", err=True)
    click.echo(result)


@dataclass(frozen=True)
class _Run:
    """How a recipe is run, whatever it is on."""

    out: Path
    resume: bool
    device: torch.device
    compiled: bool | None
    workers: Workers


def _train_sine(recipe: SineRecipe, run: _Run, follower: Follower) -> Path:
    train_sine(
        recipe,
        run.out,
        resume=run.resume,
        device=run.device,
        compiled=run.compiled,
        report=follower.show_training,
        say=follower.say,
        workers=run.workers,
    )
    return run.out / RESULT_FILE


def _train_images(recipe: Recipe, folder: Path, run: _Run, follower: Follower) -> Path:
    return train(
        recipe,
        _read(recipe, folder, "train", run.workers),
        _read(recipe, folder, "test", run.workers),
        run.out,
        resume=run.resume,
        device=run.device,
        compiled=run.compiled,
        report=follower.show_training,
        report_table=follower.show_table,
        say=follower.say,
        workers=run.workers,
    )


def _launcher(workers: Workers) -> list[str]:
    """Return the words before `kshot` that started this training."""
    if workers.count == 1:
        return []
    return ["torchrun", "--nproc-per-node", str(workers.count), "--no-python"]


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out is {out}, a file, wanted a folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise click.UsageError(
            f"--out is {out}, which is not empty, wanted an empty or new folder; to go on with the "
            "training in it, add --resume"
        )


def _read(recipe: Recipe, folder: Path, part: str, workers: Workers) -> ImageDataset:
    with Progress(f"reading {recipe.data.dataset}", "images") as progress:
        return read_dataset(
            recipe.data,
            folder,
            part,
            input_spec=recipe.input,
            progress=progress.update if workers.first else None,
        )
