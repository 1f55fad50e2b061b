"""`kshot evaluate`: a bundle's accuracy on tasks that it was not trained on."""

import json

import click

from kshot.bundle import Bundle
from kshot.trainer.commands.evaluation_report import (
    difference_text,
    result_document,
    result_text,
)
from kshot.trainer.commands.evaluation_request import (
    EvaluateRequest,
    check_together,
    second_request,
)
from kshot.trainer.commands.evaluation_session import Session, open_session
from kshot.trainer.commands.evaluation_sweep import prepare_sweep, sweep
from kshot.trainer.commands.options import check_allowed, choose_device, find_bundle
from kshot.trainer.commands.requests import takes
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.output.progress import Progress
from kshot.trainer.output.sweep_report import difference_document


@click.command("evaluate")
@takes(EvaluateRequest)
def command(request: EvaluateRequest) -> None:
    """Measure the accuracy of BUNDLE, a folder or a built-in name, on sampled tasks.

    Classes are those of the bundle's own split; equal seeds draw equal tasks. Numbers may exceed
    the limits that the bundle sets for serving; a batch-norm mode, preconditioner, head or scope
    must be one that it allows, except for baselines. docs/evaluation.md defines every number.
    """
    check_together(request)
    bundle = _open(request)
    if request.sweep_folder is not None:
        axes = prepare_sweep(request, bundle.manifest, request.sweep_folder)
        session = open_session(request, bundle, choose_device(request.device))
        document, table = sweep(session, axes, request.sweep_folder)
        click.echo(document if request.as_json else table, nl=False)
        return
    second = second_request(request)
    second_bundle = None if second is None else _open(second)
    session = open_session(request, bundle, choose_device(request.device))
    result = _measure(session, "evaluating")
    answer, text = _document(session, result), _text(session, result)
    if second is not None and second_bundle is not None:
        other = session.of(second, second_bundle)
        name = " ".join([second.bundle_name, *request.versus])
        other_result = _measure(other, f"evaluating {name}")
        difference = paired_difference(result.task_accuracies, other_result.task_accuracies)
        answer["compared"] = {"bundle": second.bundle_name, **_document(other, other_result)}
        answer["difference"] = {**difference_document(difference), "tasks": result.task_count}
        text += f"\n{name}: {_text(other, other_result)}"
        text += f"\n{difference_text(difference, result.task_count, name)}"
    click.echo(json.dumps(answer) if request.as_json else text)


def _open(request: EvaluateRequest) -> Bundle:
    bundle = find_bundle(request.bundle_name)
    check_allowed(request, bundle.manifest)
    return bundle


def _measure(session: Session, doing: str) -> EvaluationResult:
    settings = session.settings
    with Progress(doing, "tasks") as progress:
        results = session.evaluator().evaluate(
            settings, episodes=session.episodes, report=progress.update
        )
    return results[settings.batch_norm_mode]


def _document(session: Session, result: EvaluationResult) -> dict[str, object]:
    manifest, per_task = session.bundle.manifest, session.request.per_task
    return result_document(result, session.settings, manifest, per_task=per_task)


def _text(session: Session, result: EvaluationResult) -> str:
    return result_text(result, session.settings, session.bundle.manifest)
