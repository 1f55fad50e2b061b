"""`kshot calibrate`: a copy of a bundle with calibrated probabilities."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from kshot.bundle import BatchNormMode, Bundle, Calibration, Head, Manifest, Preconditioner
from kshot.trainer.bundling.calibration import TemperatureFit, check_tasks, fit_calibration
from kshot.trainer.bundling.packaging import bundle_folder, pack_copy
from kshot.trainer.commands.data_parts import read_own_part
from kshot.trainer.commands.evaluation_session import say_once
from kshot.trainer.commands.options import (
    BUNDLES,
    COMPILED,
    DATA,
    DEVICE,
    DIRECTORY,
    MAX_STEPS,
    MAX_TASKS,
    check_writable,
    choose_data_folder,
    choose_device,
    open_bundle,
)
from kshot.trainer.commands.requests import argument, command_of, numbers, option
from kshot.trainer.evaluate.accuracy_table import check_plan, measure_plan, plan_again
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.output.progress import Progress

MAX_SHOT = 1000


@dataclass(frozen=True)
class CalibrateRequest:
    """The options as they were given; None is not given."""

    bundle_name: str = argument("BUNDLE")
    out: Path = option(
        "Folder for the copy, DIR/NAME/VERSION.", required=True, type=DIRECTORY, metavar="DIR"
    )
    data_folder: Path | None = option(flag="--data", **DATA)
    part: str = option(
        "Part of the bundle's data that temperatures are fitted on.",
        "--split",
        type=click.Choice(["val", "train"]),
        default="val",
    )
    way: int | None = option(
        "Classes per task.  [default: as in the bundle's table]", type=click.IntRange(2)
    )
    shots: tuple[int, ...] = option(
        "Examples per class; a temperature is fitted for each.",
        type=numbers(1, MAX_SHOT),
        default="1,2,5",
    )
    task_count: int = option(flag="--tasks", type=click.IntRange(1, MAX_TASKS), default=1000)
    query_count: int = option("Per class.", "--queries", type=click.IntRange(1), default=5)
    seed: int = option(type=click.IntRange(0), default=0)
    step_count: int | None = option(BUNDLES, type=click.IntRange(1, MAX_STEPS))
    batch_norm_mode: BatchNormMode | None = option(BUNDLES)
    preconditioner: Preconditioner | None = option(BUNDLES)
    head: Head | None = option(BUNDLES)
    device: str = option(**DEVICE)
    compiled: bool | None = option(flag="--compile/--no-compile", **COMPILED)
    as_json: bool = option("Print one JSON document.", "--json")


@command_of("calibrate", CalibrateRequest)
def command(request: CalibrateRequest) -> None:
    """Write a copy of BUNDLE, a folder or a built-in name, with calibrated probabilities.

    A temperature is fitted for each batch-norm mode and number of shots, on answers to tasks of
    the bundle's own data, adapted as the server adapts by default. --step-count,
    --batch-norm-mode, --preconditioner and --head set other defaults for the copy; its accuracy
    table is then measured again on test tasks. A temperature alone changes no answer.
    docs/evaluation.md defines the temperature.
    """
    bundle = open_bundle(request)
    _check(request, bundle.manifest)
    choose_data_folder(request.data_folder)
    manifest = _with_defaults(bundle.manifest, request)
    folder = bundle_folder(request.out, manifest)
    try:
        exists = folder.exists()
    except OSError as error:
        raise click.UsageError(f"--out: {folder}: {error.strerror}") from error
    if exists:
        raise click.UsageError(f"--out: {folder} exists already")
    check_writable("--out", folder.parent)
    device = choose_device(request.device)
    dataset = read_own_part(bundle, request.data_folder, request.part)
    way, mode = request.way or manifest.usual_way, manifest.batch_norm.default
    counts = request.shots[0], request.query_count, request.task_count
    settings = EvaluationSettings(way, *counts, mode, seed=request.seed)
    check_tasks(settings, request.shots, manifest, dataset)
    rows = manifest.evaluation
    plan = plan_again(rows if manifest != bundle.manifest else (), manifest)
    if plan:
        dataset_test = read_own_part(bundle, request.data_folder, "test")
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
    copy = pack_copy(request.out, bundle, manifest, fits)
    if request.as_json:
        click.echo(json.dumps(_document(copy, calibration, fits)))
    else:
        click.echo(_text(copy, fits))


def _check(request: CalibrateRequest, manifest: Manifest) -> None:
    """Raise `UsageError` for a calibrated bundle and for numbers above its limits."""
    name = request.bundle_name
    if manifest.calibration is not None:
        raise click.UsageError(f"{name} is calibrated already")
    for flag, number, most in (
        ("--step-count", request.step_count, manifest.limits.max_step_count),
        ("--way", request.way, manifest.limits.max_way),
    ):
        if number is not None and number > most:
            raise click.UsageError(
                f"{flag}: expected at most {most}, the limit of {name}, got {number}"
            )


def _with_defaults(manifest: Manifest, request: CalibrateRequest) -> Manifest:
    """Return the manifest of the copy: its defaults are those that were asked for."""
    inner, batch_norm, head = manifest.inner_loop, manifest.batch_norm, manifest.head
    return replace(
        manifest,
        inner_loop=replace(
            inner,
            step_count=request.step_count or inner.step_count,
            preconditioner=request.preconditioner or inner.preconditioner,
        ),
        batch_norm=replace(batch_norm, default=request.batch_norm_mode or batch_norm.default),
        head=replace(head, default=request.head or head.default),
    )


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
