"""`kshot evaluate`: a bundle's accuracy on tasks that it was not trained on."""

import json
from enum import StrEnum
from pathlib import Path

import click

from kshot.bundle import (
    BatchNormMode,
    Bundle,
    BundleError,
    Head,
    Preconditioner,
    Scope,
    builtin_bundle,
    load_bundle,
)
from kshot.trainer.commands.options import (
    choose_data_folder,
    choose_device,
    data_option,
    device_option,
)
from kshot.trainer.dataset import ImageDataset
from kshot.trainer.datasets import data_of, read_dataset
from kshot.trainer.evaluation import EvaluationResult, evaluate_bundle
from kshot.trainer.progress import Progress
from kshot.trainer.task_solver import EvaluationSettings

__all__ = ["command"]

_Count = click.IntRange(min=1)
_DEFAULT = "[default: the bundle's]"


def _choice(kind: type[StrEnum]) -> click.Choice[str]:
    # By value: given the members, newer releases of click would ask for their names.
    return click.Choice([member.value for member in kind])


@click.command("evaluate")
@click.argument("bundle_name", metavar="BUNDLE")
@data_option
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--way", type=click.IntRange(min=2), help=_DEFAULT)
@click.option("--shot", type=_Count, default=1, show_default=True)
@click.option("--queries", type=_Count, default=1, show_default=True, help="Per class.")
@click.option("--tasks", type=_Count, default=1000, show_default=True)
@click.option("--batch-norm-mode", type=_choice(BatchNormMode), help=_DEFAULT)
@click.option("--step-count", type=_Count, help=_DEFAULT)
@click.option("--batch-size", type=_Count, help=_DEFAULT)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help=_DEFAULT)
@click.option("--preconditioner", type=_choice(Preconditioner), help=_DEFAULT)
@click.option("--head", type=_choice(Head), help=_DEFAULT)
@click.option("--scope", type=_choice(Scope), help=_DEFAULT)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    bundle_name: str,
    data_folder: Path | None,
    split: str,
    way: int | None,
    shot: int,
    queries: int,
    tasks: int,
    batch_norm_mode: str | None,
    step_count: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    preconditioner: str | None,
    head: str | None,
    scope: str | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of BUNDLE, a folder or a built-in name, on sampled tasks.

    Classes are those of the bundle's own split; equal seeds draw equal tasks. Numbers may go beyond
    the limits that the bundle sets for serving; a batch-norm mode, preconditioner, head or scope
    must be one that it allows.
    """
    bundle = load_bundle(_bundle_folder(bundle_name))
    manifest = bundle.manifest
    for option, chosen, allowed in (
        ("--batch-norm-mode", batch_norm_mode, manifest.batch_norm.allowed),
        ("--preconditioner", preconditioner, manifest.inner_loop.preconditioners),
        ("--head", head, manifest.head.allowed),
        ("--scope", scope, manifest.scope.allowed),
    ):
        if chosen is not None and chosen not in allowed:
            raise click.UsageError(
                f"{option} is {chosen}, wanted one that {bundle_name} allows: {', '.join(allowed)}"
            )
    chosen_device = choose_device(device)
    dataset = _read(bundle, choose_data_folder(data_folder), split)
    settings = EvaluationSettings(
        way=way or bundle.manifest.training.way,
        shot=shot,
        query_count=queries,
        task_count=tasks,
        batch_norm_mode=BatchNormMode(batch_norm_mode or bundle.manifest.batch_norm.default),
        step_count=step_count,
        batch_size=batch_size,
        learning_rate=learning_rate,
        preconditioner=Preconditioner(preconditioner) if preconditioner else None,
        head=Head(head) if head else None,
        scope=Scope(scope) if scope else None,
        seed=seed,
    )
    with Progress("evaluating", "tasks") as progress:
        result = evaluate_bundle(
            bundle, dataset, settings, device=chosen_device, report=progress.update
        )
    if as_json:
        click.echo(json.dumps(result_document(result)))
    else:
        click.echo(result_text(result, settings))


def result_document(result: EvaluationResult) -> dict[str, float | int | str]:
    """Lay out a result as the command's JSON: accuracies in 0..1, `ci95` a half width."""
    return {
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "ci_method": result.ci_method,
        "ece": result.ece,
        "tasks": result.task_count,
        "step_count": result.step_count,
        "ms_per_task": result.ms_per_task,
    }


def result_text(result: EvaluationResult, settings: EvaluationSettings) -> str:
    """Lay out a result for people."""
    return (
        f"{settings.way}-way {settings.shot}-shot, {result.step_count} steps, "
        f"{settings.batch_norm_mode}: accuracy {result.accuracy:.2%} ± {result.ci95:.2%} "
        f"({result.ci_method}, {result.task_count} tasks), ECE {result.ece:.3f}, "
        f"NLL {result.nll:.3f}, {result.ms_per_task:.0f} ms per task"
    )


def _bundle_folder(name: str) -> Path:
    folder = Path(name)
    if folder.exists() or len(folder.parts) > 1:
        return folder
    try:
        return builtin_bundle(name)
    except BundleError as error:
        raise click.UsageError(f"there is no folder {name}, and {error}") from error


def _read(bundle: Bundle, data_folder: Path, split: str) -> ImageDataset:
    data = data_of(bundle.manifest.provenance)
    with Progress(f"reading {data.dataset}", "images") as progress:
        return read_dataset(
            data, data_folder, split, input_spec=bundle.manifest.input, progress=progress.update
        )
