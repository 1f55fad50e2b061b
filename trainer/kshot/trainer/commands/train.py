"""`kshot train`: from a recipe to a bundle."""

from collections.abc import Sequence
from pathlib import Path

import click

from kshot.learner import compiler_name
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
from kshot.trainer.training import TrainingReport, train

__all__ = ["command"]


@click.command("train")
@click.argument("recipe_name", metavar="RECIPE")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for checkpoint, TensorBoard scalars and the bundle.",
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
    help="Compile the inner step.  [default: where a compiler is found]",
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
    if compiled is None:
        compiled = compiler_name(chosen) is not None
    _check_out(out, resume)
    training_classes = _read(recipe, folder, "train")
    test_classes = _read(recipe, folder, "test")
    with Progress("training", "meta-iterations") as progress:
        bundle_folder = train(
            recipe,
            training_classes,
            test_classes,
            out,
            resume=resume,
            device=chosen,
            compiled=compiled,
            report=lambda report: _show(progress, report),
        )
    click.echo(bundle_folder)


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out is {out}, a file, wanted a folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise click.UsageError(
            f"--out is {out}, which is not empty, wanted an empty or new folder; to go on with the "
            "training in it, add --resume"
        )


def _read(recipe: Recipe, folder: Path, split: str) -> ImageDataset:
    with Progress(f"reading {recipe.data.dataset}", "images") as progress:
        return read_dataset(
            recipe.data.dataset,
            folder,
            split,
            split_name=recipe.data.split,
            input_spec=recipe.input,
            rotations=recipe.data.rotations,
            progress=progress.update,
        )


def _show(progress: Progress, report: TrainingReport) -> None:
    note = f"{report.meta_iterations_per_second:.1f}/s, loss {report.loss:.3f}"
    if report.meta_iteration == report.meta_iterations:
        note += ", now measuring the bundle (minutes)"
    progress.update(report.meta_iteration, report.meta_iterations, note)
