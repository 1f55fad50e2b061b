"""`kshot calibrate`: a copy of a bundle with calibrated probabilities."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import click

from kshot.bundle import (
    SCHEMA_VERSION,
    BatchNormMode,
    Bundle,
    BundleError,
    Head,
    Manifest,
    Preconditioner,
    manifest_document,
    parse_manifest,
)
from kshot.trainer.bundling.calibration import check_tasks, fit_calibration
from kshot.trainer.bundling.packaging import bundle_folder, pack_copy
from kshot.trainer.bundling.step_counts import StepCountFit, fit_step_counts
from kshot.trainer.commands.calibration_report import calibration_document, calibration_text
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
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.errors import RecipeError
from kshot.trainer.evaluate.accuracy_table import check_plan, measure_plan, plan_again
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.overrides import override

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
    step_count: int | None = option(BUNDLES, type=click.IntRange(0, MAX_STEPS))
    fit_steps: bool = option(
        "Find the fewest steps for each of --shots that lose less than 0.3 points against 50."
    )
    overrides: tuple[str, ...] = option(
        "Replace one value of the copy's manifest, as version=2; may be repeated.",
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
    )
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
    table is then measured again on test tasks. A temperature alone changes no answer. Scope auto
    is measured as head; the server divides the answers of adapted tails by the same temperature.
    docs/evaluation.md defines the temperature.
    """
    bundle = open_bundle(request)
    _check(request, bundle.manifest)
    choose_data_folder(request.data_folder)
    manifest = copied_manifest(bundle.manifest, request)
    if bundle.manifest.calibration is not None and manifest.version == bundle.manifest.version:
        raise click.UsageError(
            f"{request.bundle_name} is calibrated already; give the copy another version, as "
            f"--set version={manifest.version + 1}"
        )
    folder = bundle_folder(request.out, manifest)
    try:
        exists = folder.exists()
    except OSError as error:
        raise click.UsageError(f"--out: {folder}: {error.strerror}") from error
    if exists:
        raise click.UsageError(f"--out: {folder} exists already")
    check_writable("--out", folder.parent)
    device = choose_device(request.device)
    copied = replace(bundle, manifest=manifest)
    dataset = read_own_part(copied, request.data_folder, request.part)
    way, mode = request.way or manifest.usual_way, manifest.batch_norm.default
    counts = request.shots[0], request.query_count, request.task_count
    settings = EvaluationSettings(way, *counts, mode, seed=request.seed)
    check_tasks(settings, request.shots, manifest, dataset)
    rows = manifest.evaluation
    other = request.fit_steps or not _same_answers(manifest, bundle.manifest)
    if other and rows:
        dataset_test = read_own_part(copied, request.data_folder, "test")
        check_plan(plan_again(rows, manifest), dataset_test)
    say = say_once()

    def load(bundle: Bundle, dataset: ImageDataset) -> Evaluator:
        with Progress("encoding", "images") as progress:
            return Evaluator.of_bundle(
                bundle,
                dataset,
                device,
                compiled=request.compiled,
                say=say,
                encoding=progress.update,
            )

    steps: tuple[StepCountFit, ...] = ()
    if request.fit_steps:
        with Progress("fitting step counts", "tasks") as progress:
            steps = fit_step_counts(settings, request.shots, load(copied, dataset), progress.update)
        loop = replace(manifest.inner_loop, step_count_by_shot=tuple(fit.rule for fit in steps))
        manifest = replace(manifest, inner_loop=loop)
        copied = replace(bundle, manifest=manifest)
    with Progress("fitting temperatures", "tasks") as progress:
        calibration, fits = fit_calibration(
            settings, request.shots, request.part, load(copied, dataset), progress.update
        )
    if other and rows:
        with Progress("measuring the copy's table", "tasks") as progress:
            evaluator = load(copied, dataset_test)
            rows = measure_plan(plan_again(rows, manifest), evaluator, progress.update)
    manifest = replace(manifest, evaluation=rows, calibration=calibration)
    copy = pack_copy(request.out, bundle, manifest, fits)
    if request.as_json:
        click.echo(json.dumps(calibration_document(copy, calibration, fits, steps)))
    else:
        click.echo(calibration_text(copy, fits, steps))


def _check(request: CalibrateRequest, manifest: Manifest) -> None:
    """Raise `UsageError` for numbers above the bundle's limits."""
    name = request.bundle_name
    for flag, number, most in (
        ("--step-count", request.step_count, manifest.limits.max_step_count),
        ("--way", request.way, manifest.limits.max_way),
    ):
        if number is not None and number > most:
            raise click.UsageError(
                f"{flag}: expected at most {most}, the limit of {name}, got {number}"
            )


def copied_manifest(manifest: Manifest, request: CalibrateRequest) -> Manifest:
    """Return the manifest of the copy: the bundle's with the defaults that were asked for."""
    inner, batch_norm, head = manifest.inner_loop, manifest.batch_norm, manifest.head
    if request.step_count is not None:
        inner = replace(inner, step_count=request.step_count, step_count_by_shot=None)
    if request.fit_steps:
        inner = replace(inner, step_count_by_shot=None)
    changed = replace(
        manifest,
        inner_loop=replace(inner, preconditioner=request.preconditioner or inner.preconditioner),
        batch_norm=replace(batch_norm, default=request.batch_norm_mode or batch_norm.default),
        head=replace(head, default=request.head or head.default),
        calibration=None,
        schema_version=SCHEMA_VERSION,
    )
    document = manifest_document(changed)
    try:
        for setting in request.overrides:
            override(document, setting)
        return parse_manifest(document)
    except (RecipeError, BundleError) as error:
        raise click.UsageError(f"the copy's {error}") from error


def _same_answers(first: Manifest, second: Manifest) -> bool:
    """Return whether two manifests of the same weights answer tasks alike."""
    parts = ("input", "inner_loop", "batch_norm", "head", "scope")
    return all(getattr(first, part) == getattr(second, part) for part in parts)
