"""`kshot calibrate`: a bundle's copy whose probabilities are as sure as they are right."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from kshot.bundle import Bundle, Manifest
from kshot.trainer.bundling.calibrated_copy import write_copy
from kshot.trainer.bundling.calibration import check_tasks, fit_calibration
from kshot.trainer.bundling.packaging import bundle_folder
from kshot.trainer.commands.calibration_options import CalibrateOptions, calibrate_options
from kshot.trainer.commands.calibration_report import calibration_document, calibration_text
from kshot.trainer.commands.evaluation_request import check_choice
from kshot.trainer.commands.evaluation_session import check_split, find_bundle, say_once
from kshot.trainer.commands.options import choose_data_folder, choose_device
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of, read_dataset
from kshot.trainer.evaluate.accuracy_table import check_rows, measure_again
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.output.progress import Progress

__all__ = ["command"]


@click.command("calibrate")
@calibrate_options
def command(**given: Any) -> None:  # noqa: ANN401 -- the options' own types
    """Write a copy of BUNDLE, a folder or a built-in name, with calibrated probabilities.

    For each batch-norm mode and number of shots a temperature is fitted to the answers to tasks of
    its own data, adapted as service does by default. --step-count, --batch-norm-mode,
    --preconditioner and --head name other defaults for the copy; its table of accuracies is then
    measured again on test tasks. A temperature alone changes no answer. docs/evaluation.md says
    what a temperature is.
    """
    options = CalibrateOptions(**given)
    bundle = find_bundle(options.bundle_name)
    tasks = options.calibration_tasks(bundle.manifest)
    data_folder = choose_data_folder(options.data_folder)
    manifest = _prepare(options, bundle)
    device = choose_device(options.device)
    dataset = _read(bundle, data_folder, options.part)
    check_tasks(tasks, manifest, dataset)
    rows = manifest.evaluation
    others = manifest != bundle.manifest
    dataset_test = _read(bundle, data_folder, "test") if rows and others else None
    if dataset_test is not None:
        check_rows(rows, manifest, dataset_test)
    load = partial(
        Evaluator.of_bundle,
        replace(bundle, manifest=manifest),
        device=device,
        compiled=options.compiled,
        say=say_once(),
    )
    with Progress("fitting temperatures", "tasks") as progress:
        fitted = fit_calibration(tasks, load(dataset), progress.update)
    if dataset_test is not None:
        with Progress("measuring the copy's table", "tasks") as progress:
            rows = measure_again(rows, load(dataset_test), progress.update)
    copy = write_copy(options.out, bundle, manifest, rows, fitted)
    _, fits = fitted
    if options.as_json:
        click.echo(json.dumps(calibration_document(copy, fits)))
    else:
        click.echo(calibration_text(copy, fits))


def _prepare(options: CalibrateOptions, bundle: Bundle) -> Manifest:
    """Return the manifest with the copy's defaults, and make its folder, before hours are spent.

    Raises ``UsageError`` for a bundle that is calibrated, defaults that it does not allow, and a
    folder that is there or cannot be made.
    """
    manifest, name = bundle.manifest, options.bundle_name
    if manifest.calibration is not None:
        raise click.UsageError(f"{name} is calibrated already, wanted a bundle that is not")
    for option, chosen, allowed in (
        ("--batch-norm-mode", options.batch_norm_mode, manifest.batch_norm.allowed),
        ("--preconditioner", options.preconditioner, manifest.inner_loop.preconditioners),
        ("--head", options.head, manifest.head.allowed),
    ):
        if chosen is not None:
            check_choice(option, chosen, allowed, name)
    most = manifest.limits.max_step_count
    if options.step_count is not None and options.step_count > most:
        raise click.UsageError(
            f"--step-count is {options.step_count}, wanted at most {most}, the limit of {name}"
        )
    _check_out(options.out, bundle_folder(options.out, manifest))
    return options.defaults().of(manifest)


def _check_out(out: Path, folder: Path) -> None:
    try:
        if folder.exists():
            raise click.UsageError(f"--out would write {folder}, which is there already")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise click.UsageError(
            f"--out is {out}, where nothing can be written: {error.strerror}"
        ) from None


def _read(bundle: Bundle, folder: Path, part: str) -> ImageDataset:
    """Read a part of the bundle's data; raises ``DataError`` where they are split otherwise."""
    data = data_of(bundle.manifest.provenance)
    with Progress(f"reading {data.dataset}", "images") as progress:
        dataset = read_dataset(
            data, folder, part, input_spec=bundle.manifest.input, progress=progress.update
        )
    check_split(dataset, bundle)
    return dataset
