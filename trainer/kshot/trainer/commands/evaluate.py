"""`kshot evaluate`: a bundle's accuracy on tasks that it was not trained on."""

import json
from pathlib import Path

import click
import torch

from kshot.local import check_destination
from kshot.trainer.commands.evaluation_report import difference_text, result_document, result_text
from kshot.trainer.commands.evaluation_request import (
    EvaluateRequest,
    check_together,
    second_request,
)
from kshot.trainer.commands.evaluation_session import Session, open_session
from kshot.trainer.commands.options import check_writable, open_bundle
from kshot.trainer.commands.requests import command_of
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.sweep import run_sweep
from kshot.trainer.output.plotting import check_matplotlib
from kshot.trainer.output.progress import Progress
from kshot.trainer.output.sweep_report import (
    SWEEP_FILES,
    SweepSubject,
    difference_document,
    write_sweep,
)


@command_of("evaluate", EvaluateRequest)
def command(request: EvaluateRequest) -> None:
    """Measure the accuracy of BUNDLE, a folder or a built-in name, on sampled tasks.

    Classes are those of the bundle's own split; equal seeds draw equal tasks. Numbers may exceed
    the limits that the bundle sets for serving; a batch-norm mode, preconditioner, head or scope
    must be one that it allows, except for baselines. Scope auto is measured as head.
    docs/evaluation.md defines every number.
    """
    check_together(request)
    bundle = open_bundle(request)
    if request.sweep_folder is not None:
        _check_sweep_folder(request.sweep_folder)
        document, table = _sweep(open_session(request, bundle), request.sweep_folder)
        click.echo(document if request.as_json else table, nl=False)
        return
    second = second_request(request)
    compared = None if second is None else (second, open_bundle(second))
    session = open_session(request, bundle)
    result = session.measure("evaluating")
    answer, text = result_document(session, result), result_text(session, result)
    if compared is not None:
        other = session.of(*compared)
        name = " ".join([other.request.bundle_name, *request.versus])
        found = other.measure(f"evaluating {name}")
        difference = paired_difference(result.task_accuracies, found.task_accuracies)
        answer["compared"] = {"bundle": other.request.bundle_name, **result_document(other, found)}
        answer["difference"] = {**difference_document(difference), "tasks": result.task_count}
        text += f"\n{name}: {result_text(other, found)}"
        text += f"\n{difference_text(difference, result.task_count, name)}"
    click.echo(json.dumps(answer) if request.as_json else text)


def _check_sweep_folder(folder: Path) -> None:
    """Make the folder of a sweep before anything is measured.

    Raises `UsageError` for a folder that cannot be written; `TrainingError` without matplotlib.
    """
    check_matplotlib()
    check_writable("--sweep", folder)
    for path in (folder / name for name in SWEEP_FILES):
        try:
            check_destination(path)
        except OSError as error:
            raise click.UsageError(f"--sweep: {path}: {error.strerror}") from None


def _sweep(session: Session, folder: Path) -> tuple[str, str]:
    """Run a sweep, write its files to a folder, and return its JSON and its Markdown.

    Raises `TrainingError` when a file cannot be written.
    """
    device, settings = session.device, session.settings
    with Progress("sweeping", "tasks") as progress:
        rows = run_sweep(
            session.evaluator(),
            settings,
            session.request.axes(session.bundle.manifest),
            episodes=session.episodes,
            report=progress.update,
        )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    return write_sweep(folder, SweepSubject(session.bundle, session.dataset, settings, where), rows)
