"""`kshot predict`: the classes of image files."""

from __future__ import annotations

from pathlib import Path

import click

from kshot.client.commands.answers import answers, print_answers
from kshot.client.commands.classify import Question
from kshot.client.commands.folder import check_files
from kshot.client.commands.names import complete_ids
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_warnings,
    server_options,
    timeout_option,
)
from kshot.client.commands.predict_folder import predict_folder
from kshot.client.options import choices


@click.command()
@click.argument("adapted_model", metavar="ID", shell_complete=complete_ids)
@click.argument("images", type=click.Path(path_type=Path), metavar="IMAGE...|FOLDER", nargs=-1)
@server_options()
@click.option("--batch-norm-mode", type=click.Choice(choices("batch_norm_mode")))
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="Best classes to show."
)
@click.option(
    "--reject-below",
    type=click.FloatRange(0, 1),
    help="Refuse images whose known score is below this rate of false alarms, such as 0.1.",
)
@timeout_option
@json_option
def command(
    adapted_model: str,
    images: tuple[Path, ...],
    server: Server,
    batch_norm_mode: str | None,
    top: int,
    reject_below: float | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Classify images with the adapted model ID: files in one request, or a whole folder.

    Of a FOLDER all images are classified, in as many requests as it takes. Where its subfolders
    are named as classes, the answers are scored: accuracy, per class, confusion.
    """
    if not images:
        raise click.UsageError("IMAGE: expected at least one, got none; name images, or one folder")
    if folders := [each for each in images if each.is_dir()]:
        if len(images) > 1:
            raise click.UsageError(
                f"expected images or one FOLDER, got {len(images)} paths with {folders[0]}"
            )
        question = Question(adapted_model, batch_norm_mode, reject_below)
        with server.client(timeout) as client:
            predict_folder(client, question, folders[0], top, as_json=as_json)
        return
    check_files(images)
    with server.client(timeout) as client:
        prediction = client.predict(
            adapted_model, images, batch_norm_mode=batch_norm_mode, reject_below=reject_below
        )
    print_warnings(prediction.warnings)
    if as_json:
        print_document(
            {
                "predictions": [each.document() for each in answers(images, prediction, top)],
                "warnings": list(prediction.warnings),
                "timing_ms": prediction.timing.document(),
            }
        )
        return
    print_answers(answers(images, prediction, top), top)
