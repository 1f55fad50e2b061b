"""`kshot calibrate`: a copy of a bundle with calibrated probabilities."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import click

from kshot.bundle import Bundle, Calibration, Manifest
from kshot.trainer.bundling.calibrated_copy import write_copy
from kshot.trainer.bundling.calibration import TemperatureFit, check_tasks, fit_calibration
from kshot.trainer.bundling.packaging import bundle_folder
from kshot.trainer.commands.calibration_request import CalibrateRequest
from kshot.trainer.commands.evaluation_session import read_part, say_once
from kshot.trainer.commands.options import (
    check_allowed,
    check_writable,
    choose_data_folder,
    choose_device,
    find_bundle,
)
from kshot.trainer.commands.requests import takes
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.registry import data_of
from kshot.trainer.evaluate.accuracy_table import check_plan, measure_plan, plan_again
from kshot.trainer.evaluate.bundle_data import check_split
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.output.progress import Progress


@click.command("calibrate")
@takes(CalibrateRequest)
def command(request: CalibrateRequest) -> None:
    """Write a copy of BUNDLE, a folder or a built-in name, with calibrated probabilities.

    A temperature is fitted for each batch-norm mode and number of shots, on answers to tasks of
    the bundle's own data, adapted as the server adapts by default. --step-count,
    --batch-norm-mode, --preconditioner and --head set other defaults for the copy; its accuracy
    table is then measured again on test tasks. A temperature alone changes no answer.
    docs/evaluation.md defines the temperature.
    """
    bundle = find_bundle(request.bundle_name)
    _check(request, bundle.manifest)
    choose_data_folder(request.data_folder)
    manifest = request.with_defaults(bundle.manifest)
    folder = bundle_folder(request.out, manifest)
    try:
        exists = folder.exists()
    except OSError as error:
        raise click.UsageError(f"--out: {folder}: {error.strerror}") from error
    if exists:
        raise click.UsageError(f"--out: {folder} exists already")
    check_writable("--out", folder.parent)
    device = choose_device(request.device)
    dataset = _read(request, bundle, request.part)
    settings = request.settings(manifest)
    check_tasks(settings, request.shots, manifest, dataset)
    rows = manifest.evaluation
    plan = plan_again(rows if manifest != bundle.manifest else (), manifest)
    if plan:
        dataset_test = _read(request, bundle, "test")
        check_plan(plan, dataset_test)
    load = partial(
        Evaluator.of_bundle,
        replace(bundle, manifest=manifest),
        device=device,
        compiled=request.compiled,
        say=say_once(),
    )
    with Progress("fitting temperatures", "tasks") as progress:
        calibration, fits = fit_calibration(
            settings, request.shots, request.part, load(dataset), progress.update
        )
    if plan:
        with Progress("measuring the copy's table", "tasks") as progress:
            rows = measure_plan(plan, load(dataset_test), progress.update)
    manifest = replace(manifest, evaluation=rows, calibration=calibration)
    copy = write_copy(request.out, bundle, manifest, fits)
    if request.as_json:
        click.echo(json.dumps(_document(copy, calibration, fits)))
    else:
        click.echo(_text(copy, fits))


def _check(request: CalibrateRequest, manifest: Manifest) -> None:
    """Raise `UsageError` for a calibrated bundle and for what the bundle does not allow."""
    name = request.bundle_name
    if manifest.calibration is not None:
        raise click.UsageError(f"{name} is calibrated already")
    check_allowed(request, manifest)
    for flag, number, most in (
        ("--step-count", request.step_count, manifest.limits.max_step_count),
        ("--way", request.way, manifest.limits.max_way),
    ):
        if number is not None and number > most:
            raise click.UsageError(
                f"{flag}: expected at most {most}, the limit of {name}, got {number}"
            )


def _read(request: CalibrateRequest, bundle: Bundle, part: str) -> ImageDataset:
    """Read a part of the bundle's data; raises `DataError` when they are split differently."""
    data = data_of(bundle.manifest.provenance)
    dataset = read_part(data, request.data_folder, part, bundle)
    check_split(dataset, bundle)
    return dataset


def _document(
    copy: Bundle, calibration: Calibration, fits: Sequence[TemperatureFit]
) -> dict[str, object]:
    """Lay out a calibrated copy as the command's JSON; accuracies and ECE in 0..1, NLL in nats."""
    return {
        "bundle": str(copy.path),
        "bundle_digest": copy.digest,
        "split": calibration.part,
        "data_digest": calibration.data_digest,
        "way": calibration.way,
        "tasks": calibration.task_count,
        "queries": calibration.query_count,
        "step_count": calibration.step_count,
        "seed": calibration.seed,
        "temperatures": [
            {
                "batch_norm_mode": fit.rule.batch_norm_mode,
                "shot": fit.rule.shot,
                "temperature": fit.rule.temperature,
                "accuracy": fit.after.accuracy,
                "ece": fit.after.ece,
                "nll": fit.after.nll,
                "uncalibrated_ece": fit.before.ece,
                "uncalibrated_nll": fit.before.nll,
                "diverged": fit.after.diverged_count,
            }
            for fit in fits
        ],
    }


def _text(copy: Bundle, fits: Sequence[TemperatureFit]) -> str:
    """Lay out the temperatures of a calibrated copy for people; its folder comes last."""
    said = [
        f"{fit.rule.batch_norm_mode}, {fit.rule.shot:g}-shot: temperature "
        f"{fit.rule.temperature:.4g}, ECE {fit.before.ece:.4f} -> {fit.after.ece:.4f}, NLL "
        f"{fit.before.nll:.4f} -> {fit.after.nll:.4f}"
        for fit in fits
    ]
    return "\n".join([*said, str(copy.path)])
