"""`kshot evaluate`: a bundle's accuracy on tasks that it was not trained on."""

import json
from dataclasses import replace
from typing import Any

import click

from kshot.trainer.commands.evaluation_options import VARIABLE, evaluate_options
from kshot.trainer.commands.evaluation_report import (
    difference_document,
    difference_text,
    result_document,
    result_text,
)
from kshot.trainer.commands.evaluation_request import DECIDED, EvaluateOptions, check_options
from kshot.trainer.commands.evaluation_session import Session, open_bundle, open_session
from kshot.trainer.commands.evaluation_sweep import prepare_sweep, sweep
from kshot.trainer.commands.options import choose_device
from kshot.trainer.evaluate.baselines import Baseline
from kshot.trainer.evaluate.paired_differences import paired_difference
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.output.progress import Progress

__all__ = ["command"]


@click.command("evaluate")
@evaluate_options
def command(**given: Any) -> None:  # noqa: ANN401 -- the options' own types
    """Measure the accuracy of BUNDLE, a folder or a built-in name, on sampled tasks.

    Classes are those of the bundle's own split; equal seeds draw equal tasks. Numbers may go beyond
    the limits that the bundle sets for serving; a batch-norm mode, preconditioner, head or scope
    must be one that it allows, but for baselines. docs/evaluation.md defines every number.
    """
    options = EvaluateOptions(**given)
    check_options(options)
    bundle = open_bundle(options)
    folder = options.sweep_folder
    axes = None if folder is None else prepare_sweep(options, bundle.manifest, folder)
    other = _other(options)
    other_bundle = None if other is None else open_bundle(other)
    session = open_session(options, bundle, choose_device(options.device))
    if axes is not None and folder is not None:
        document, table = sweep(session, axes, folder)
        click.echo(document if options.as_json else table, nl=False)
        return
    result = _measure(session, "evaluating")
    answer = _document(session, result)
    text = _text(session, result)
    if other is not None and other_bundle is not None:
        second = session.of(other, other_bundle)
        name = " ".join([other.bundle_name, *options.versus])
        other_result = _measure(second, f"evaluating {name}")
        difference = paired_difference(result.task_accuracies, other_result.task_accuracies)
        answer["compared"] = {
            "bundle": other.bundle_name,
            **_document(second, other_result),
        }
        answer["difference"] = difference_document(difference, result.task_count)
        text += f"\n{name}: {_text(second, other_result)}"
        text += f"\n{difference_text(difference, result.task_count, name)}"
    click.echo(json.dumps(answer) if options.as_json else text)


def _measure(session: Session, doing: str) -> EvaluationResult:
    with Progress(doing, "tasks") as progress:
        results = session.evaluator().evaluate(
            session.settings, episodes=session.episodes, report=progress.update
        )
    return results[session.settings.batch_norm_mode]


def _document(session: Session, result: EvaluationResult) -> dict[str, object]:
    settings = session.settings
    temperature = settings.temperature(session.bundle.manifest)
    return result_document(result, settings, temperature, per_task=session.options.per_task)


def _text(session: Session, result: EvaluationResult) -> str:
    settings = session.settings
    return result_text(result, settings, settings.temperature(session.bundle.manifest))


def _other(options: EvaluateOptions) -> EvaluateOptions | None:
    """Return the options of the second variant, None where there is none.

    What a second variant's baseline decides, the first variant's options do not say about it.
    Raises ``UsageError`` for an option that cannot differ, or a value that it does not take.
    """
    if options.compared is None and not options.versus:
        return None
    changes: dict[str, Any] = {}
    for setting in options.versus:
        name, equals, value = setting.partition("=")
        if not equals or name not in VARIABLE:
            raise click.UsageError(
                f"--versus is {setting!r}, wanted OPTION=VALUE with one of: {', '.join(VARIABLE)}"
            )
        try:
            changes[name.replace("-", "_")] = VARIABLE[name].convert(value, None, None)
        except click.BadParameter as error:
            raise click.UsageError(f"--versus is {setting!r}: {error.message}") from None
    if "baseline" in changes:
        changes = dict.fromkeys(DECIDED[Baseline(changes["baseline"])]) | changes
    name = options.compared or options.bundle_name
    other = replace(options, **changes, bundle_name=name, compared=None, versus=())
    check_options(other)
    return other
