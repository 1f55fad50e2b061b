"""`kshot adapt`: a folder of class folders becomes an adapted model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Unpack, get_type_hints

import click

from kshot.client.adapt_run import AdaptProgress
from kshot.client.adapted_model import AdaptedModel
from kshot.client.client import Client
from kshot.client.commands.folder import LabelledFiles, check_files, read_class_folders
from kshot.client.commands.names import complete_models
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_table,
    print_warnings,
    server_options,
    time_text,
    timeout_option,
)
from kshot.client.commands.progress import following, watched
from kshot.client.options import DURATIONS, AdaptOptions, ResolvedOptions, choices
from kshot.client.results import AccuracyEstimate, Description, Report, TailReport


def adapt_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each option of an adaptation."""
    types = get_type_hints(ResolvedOptions)
    for option in reversed(fields(ResolvedOptions)):
        flag = "--" + option.name.replace("_", "-")
        kind = types[option.name]
        if kind is bool:
            settings: dict[str, Any] = {"is_flag": True, "default": None}
            if option.metadata.get("on_by_default"):
                flag += flag.replace("--", "/--no-", 1)
        else:
            settings = {"type": click.Choice(choices(option.name)) if kind is str else kind}
            if option.name in DURATIONS:
                settings["metavar"] = "SECONDS"
        command = click.option(flag, help=option.metadata["help"], **settings)(command)
    return command


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@server_options()
@click.option(
    "--model",
    shell_complete=complete_models,
    help="The served model to adapt, such as drawings.  [default: the one that suits the images]",
)
@adapt_options
@timeout_option
@json_option
def command(
    folder: Path,
    server: Server,
    model: str | None,
    timeout: float,
    as_json: bool,
    **options: Unpack[AdaptOptions],
) -> None:
    """Adapt a model to the images in FOLDER, which holds one folder of images for each class.

    Options that are left out take the model's own defaults.
    """
    support = read_class_folders(folder)
    print_warnings(support.remarks)
    check_files(support.files)
    with server.client(timeout) as client:
        adapted = _adapt(client, support, model, options)
    report = adapted.report
    if report is not None:
        print_warnings((*report.warnings, *notes(report, support.files)))
    if as_json:
        print_document(document(adapted))
    else:
        print_table(("adapted model", adapted.id), rows(adapted))


def _adapt(
    client: Client, support: LabelledFiles, model: str | None, options: AdaptOptions
) -> AdaptedModel:
    """Adapt, and show steps and loss where somebody looks on."""
    if not watched():
        return client.adapt(support.files, support.labels, model=model, **options)
    run = client.adapt_stream(support.files, support.labels, model=model, **options)
    with following(f"adapting to {len(support.files)} images") as tell, run:
        for progress in run:
            tell(stage_text(progress), progress.step_count, progress.total_step_count)
        return run.result()


def stage_text(progress: AdaptProgress) -> str:
    """Say what the server does, and the last loss that it told."""
    words = " ".join(filter(None, (progress.stage, progress.model)))
    return f"{words}, loss {progress.support_loss[-1]:.3f}" if progress.support_loss else words


def document(adapted: AdaptedModel) -> dict[str, object]:
    """Return what the command prints for machines."""
    return {
        "adapted_model": adapted.id,
        "model": adapted.description.model,
        "model_version": adapted.description.model_version,
        "weights_digest": adapted.weights_digest,
        "class_names": list(adapted.class_names),
        "step_count": adapted.step_count,
        "support_accuracy": adapted.support_accuracy,
        "estimate": estimate_document(adapted.report.estimate if adapted.report else None),
        "chosen_from": [
            {"model": each.model, "estimate": estimate_document(each.estimate)}
            for each in (adapted.report.chosen_from if adapted.report else ())
        ],
        "tail": asdict(adapted.report.tail) if adapted.report and adapted.report.tail else None,
        "warnings": list(adapted.report.warnings) if adapted.report else [],
        "deduplicated": adapted.report is not None and adapted.report.deduplicated,
        "example_notes": [
            asdict(note) for note in (adapted.report.example_notes if adapted.report else ())
        ],
        "expire_time": time_text(adapted.expire_time),
        "timing_ms": adapted.timing.document() if adapted.timing else {},
    }


def rows(adapted: AdaptedModel) -> list[tuple[str, str]]:
    """Return what the command prints for people."""
    timing = adapted.timing.document() if adapted.timing else {}
    tail = adapted.report.tail if adapted.report else None
    budget = adapted.description.options.time_budget
    return [
        ("model", chosen(adapted)),
        ("classes", ", ".join(adapted.class_names)),
        ("steps", str(adapted.step_count)),
        *([("last layers", last_layers(tail, budget))] if tail else []),
        ("accuracy to expect", expectation(adapted.report)),
        ("kept until", str(time_text(adapted.expire_time))),
        ("time, ms", ", ".join(f"{name} {value:.1f}" for name, value in timing.items())),
    ]


def chosen(adapted: AdaptedModel) -> str:
    """Name the model, and those that the server compared it with."""
    others = [
        each.model
        if each.estimate is None
        else f"{each.model} ({100 * each.estimate.accuracy:.0f} %)"
        for each in (adapted.report.chosen_from if adapted.report else ())
        if each.model != adapted.description.model
    ]
    return versioned(adapted.description) + (f", chosen over {', '.join(others)}" if others else "")


def versioned(description: Description) -> str:
    """Name the model and its version, where the server tells that."""
    version = description.model_version
    return f"{description.model}@{version}" if version else description.model


def estimate_document(estimate: AccuracyEstimate | None) -> dict[str, object] | None:
    """Return an estimate of accuracy for machines."""
    if estimate is None:
        return None
    return {
        "accuracy": estimate.accuracy,
        "low": estimate.low,
        "high": estimate.high,
        "example_count": estimate.example_count,
        "confusion": estimate.confusion.tolist(),
        "cross_entropy": estimate.cross_entropy,
    }


def expectation(report: Report | None) -> str:
    """Say how good the model is, from the examples themselves."""
    if report is None or report.estimate is None:
        return "unknown: measure it on images that it has not seen"
    estimate = report.estimate
    low, high = (round(100 * end) for end in (estimate.low, estimate.high))
    return (
        f"{100 * estimate.accuracy:.0f} % ({low} to {high} %), from {estimate.example_count} "
        "examples, left out in turn"
    )


def last_layers(tail: TailReport, budget: float) -> str:
    """Say what became of the encoder's last layers, and what more time would change."""
    missing = tail.needed_time > budget
    remedy = f"--time-budget {math.ceil(tail.needed_time)}"
    if not tail.tried:
        why = f"too little time; {remedy} lets them adapt" if missing else "see the warnings"
        return f"as they were: {why}"
    said = "as they were: adapting them gains nothing here"
    if tail.weight:
        said = f"adapted, weight {tail.weight:.2g} beside the head"
    return f"{said}; {remedy} allows all steps" if missing else said


def notes(report: Report, files: Sequence[Path | str]) -> Iterator[str]:
    """Yield a sentence for each example that may do harm."""
    for note in report.example_notes:
        other = "" if note.other_index is None else files[note.other_index]
        sentence = {
            "blank": "is blank",
            "duplicate": f"is the same picture as {other}, of another class",
            "near_identical": f"is nearly the same picture as {other}",
            "mislabelled": f"looks like {note.class_name} to the other examples",
            "far": "is unlike the examples of all classes",
        }.get(note.flaw, f"has flaw {note.flaw}")
        yield f"{files[note.index]} {sentence}"
