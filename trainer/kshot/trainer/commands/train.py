"""`kshot train`: from a recipe to a bundle."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from kshot.bundle import Bundle, load_bundle
from kshot.trainer.commands.data_parts import read_part
from kshot.trainer.commands.follower import Follower
from kshot.trainer.commands.options import (
    DATA,
    DEVICE,
    DIRECTORY,
    check_writable,
    choose_data_folder,
    choose_device,
    holds_files,
)
from kshot.trainer.commands.own_training import check_apart, choose_rules, compare, plan_training
from kshot.trainer.commands.requests import argument, command_of, option
from kshot.trainer.commands.step_curve import plots_in, write_step_curve
from kshot.trainer.datasets.device_images import enlarged
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.datasets.registry import WITHOUT_FOLDER
from kshot.trainer.errors import RecipeError
from kshot.trainer.loop.image_run import train
from kshot.trainer.loop.run import CHECKPOINT_FILE
from kshot.trainer.loop.workers import Workers, joined_workers, launched_count
from kshot.trainer.output.contest_table import contest_document, contest_text
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.own_drawings import RECIPE
from kshot.trainer.recipe.parsing import AnyRecipe
from kshot.trainer.recipe.recipe import Recipe
from kshot.trainer.recipe.sine import SineRecipe
from kshot.trainer.recipe.start import start_bundle
from kshot.trainer.sine.run import RESULT_FILE, train_sine


@dataclass(frozen=True)
class TrainRequest:
    """The options as they were given."""

    recipe_name: str | None = argument("[RECIPE]", required=False)
    folder: Path | None = option(
        "Train on a folder of class folders by a recipe that suits it, and hold out classes.",
        type=click.Path(path_type=Path),
        metavar="DIR",
    )
    out: Path = option(
        "Folder for checkpoint, recipe, TensorBoard scalars and the bundle.",
        required=True,
        type=DIRECTORY,
        metavar="DIR",
    )
    data_folder: Path | None = option(flag="--data", **DATA)
    overrides: tuple[str, ...] = option(
        "Replace one value of the recipe, as inner.step_count=3, or leave out an optional one, as "
        "augmentation=; may be repeated.",
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
    )
    start: str | None = option(
        "Start from a bundle's weights, with its input, network and encoder; with --folder, one "
        "with head ridge or step ink.",
        metavar="BUNDLE",
    )
    resume: bool = option("Continue from the checkpoint in DIR.")
    device: str = option(**DEVICE)
    compiled: bool | None = option(
        "Compile the inner step.  [default: where that works]",
        "--compile/--no-compile",
        default=None,
    )
    step_curve: bool = option(
        "Measure accuracy over inner steps at the end, on a few tasks.",
        "--step-curve/--no-step-curve",
        default=True,
    )
    as_json: bool = option("Print one JSON document.", "--json")

    def again(self) -> list[str]:
        """Return the words of a command that starts the same training."""
        of = ["--folder", str(self.folder)] if self.recipe_name is None else [self.recipe_name]
        words = ["kshot", "train", *of, "--out", str(self.out)]
        words += [] if self.data_folder is None else ["--data", str(self.data_folder)]
        words += [] if self.start is None else ["--start", self.start]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--device", self.device]
        if self.compiled is not None:
            words.append("--compile" if self.compiled else "--no-compile")
        words += [] if self.step_curve else ["--no-step-curve"]
        return words


@command_of("train", TrainRequest)
def command(request: TrainRequest) -> None:
    """Meta-train by RECIPE, a name from `kshot recipes` or a TOML file, and write a bundle.

    Prints the bundle's folder; a recipe on sine waves ends with its errors, in a JSON file whose
    path is printed. Under `torchrun --nproc-per-node N --no-python kshot train ...` N processes
    share the tasks of each meta-batch.

    With --folder there is no RECIPE: drawings train the network of bundle drawings, other pictures
    choose the rules of the head of photos. Prints the accuracy on classes that were held out,
    beside the start's and those of trivial classifiers, and the command that serves the result.
    """
    if (request.recipe_name is None) == (request.folder is None):
        raise click.UsageError("expected one of RECIPE and --folder")
    if request.folder is not None:
        _train_on_folder(request, request.folder)
    elif (result := _train_by_recipe(request, request.again())) is not None:
        click.echo(
            json.dumps(_document(request, {"result": str(result)})) if request.as_json else result
        )


def _train_on_folder(request: TrainRequest, folder: Path) -> None:
    """Train as suits a user's folder, and print the accuracy on held-out classes."""
    source = click.get_current_context().get_parameter_source("data_folder")
    if source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--data cannot be combined with --folder")
    request = replace(request, data_folder=None)  # from KSHOT_DATA: for recipes
    check_apart(folder, request.out)
    own = plan_training(folder, request.start)
    result: Path | None
    if own.by_gradients:
        by_recipe = replace(
            request,
            recipe_name=RECIPE,
            data_folder=own.data_folder,
            start=own.start_name,
            overrides=(*own.recipe_settings, *request.overrides),
        )
        result = _train_by_recipe(by_recipe, request.again())
    else:
        if request.overrides:
            raise click.UsageError(f"--set: {own.start_name} has no recipe: its rules are chosen")
        if (count := launched_count()) > 1:
            raise click.UsageError(
                f"torchrun: expected one process to choose the rules of {own.start_name}, got "
                f"{count}; start kshot train without torchrun"
            )
        _check_out(request.out, request.resume)
        again = shlex.join([*request.again(), "--resume"])
        with Follower(None, again):
            result = choose_rules(own, request.out, choose_device(request.device))
    if result is not None:
        contest = compare(own, result, choose_device(request.device))
        shown = _document(request, contest_document(contest)) if request.as_json else None
        click.echo(contest_text(contest) if shown is None else json.dumps(shown))


def _document(request: TrainRequest, result: Mapping[str, object]) -> Mapping[str, object]:
    return {**result, "plots": plots_in(request.out)}


def _train_by_recipe(request: TrainRequest, again: Sequence[str]) -> Path | None:
    """Train by the request's recipe; return the path of the result, None but in the first process.

    `again` are the words of a command that starts the same training.
    """
    try:
        recipe = load_recipe(str(request.recipe_name), request.overrides, request.start)
    except RecipeError as error:
        raise click.UsageError(str(error)) from error
    if recipe.data.dataset not in WITHOUT_FOLDER:
        choose_data_folder(request.data_folder)
    device = choose_device(request.device)
    with joined_workers(device) as workers:
        if workers.first:
            _check_out(request.out, request.resume)
        launcher = ["torchrun", "--nproc-per-node", str(workers.count), "--no-python"]
        words = [*(launcher if workers.count > 1 else ()), *again, "--resume"]
        checkpoint = request.out / CHECKPOINT_FILE
        with Follower(checkpoint, shlex.join(words), silent=not workers.first) as follower:
            result = _train(recipe, request, device, workers, follower)
            if workers.first and request.step_curve and isinstance(recipe, Recipe):
                _step_curve(recipe, request, load_bundle(result), device, follower)
    if not workers.first:
        return None
    if follower.idle:
        click.echo(f"the training in {request.out} is finished already: its result is", err=True)
    elif plots := plots_in(request.out):
        click.echo(f"drawn: {', '.join(plots)}", err=True)
    return result


def _step_curve(
    recipe: Recipe, request: TrainRequest, bundle: Bundle, device: torch.device, follower: Follower
) -> None:
    write_step_curve(
        recipe,
        bundle,
        request.data_folder,
        request.out,
        device,
        compiled=request.compiled,
        say=follower.say,
    )


def _train(
    recipe: AnyRecipe,
    request: TrainRequest,
    device: torch.device,
    workers: Workers,
    follower: Follower,
) -> Path:
    """Train by a recipe on images or on sine waves; return the path of the result."""
    how: dict[str, Any] = {
        "resume": request.resume,
        "device": device,
        "compiled": request.compiled,
        "report": follower.show_training,
        "say": follower.say,
        "workers": workers,
    }
    if isinstance(recipe, SineRecipe):
        train_sine(recipe, request.out, **how)
        return request.out / RESULT_FILE
    inputs = {"train": enlarged(recipe.input, recipe.oversampling), "test": recipe.input}
    train_part, test_part = (
        read_part(recipe.data, request.data_folder, part, spec, silent=not workers.first)
        for part, spec in inputs.items()
    )
    start = start_bundle(recipe)
    if start is not None and start.encoder_path is not None:
        with Progress("encoding", "images") as progress:
            for part in (train_part, test_part):  # kept in the cache for the training
                encoded_pixels(part, start, device, progress.update)
    show_table = follower.show_table
    return train(recipe, train_part, test_part, request.out, report_table=show_table, **how)


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise click.UsageError(f"--out: expected a directory, {out} is a file")
    if holds_files(out) and not resume:
        raise click.UsageError(
            f"--out: expected an empty or new directory, {out} is not empty; to continue the "
            "training in it, add --resume"
        )
    check_writable("--out", out.parent)
