"""`kshot revise`: an adapted model anew, with examples more, fewer or of another class."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from kshot.client.commands.adapt import adapt_options, document, notes, rows
from kshot.client.commands.folder import LabelledFiles, check_files, read_class_folders
from kshot.client.commands.names import complete_ids
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_table,
    print_warnings,
    server_options,
    timeout_option,
)
from kshot.client.commands.progress import waiting
from kshot.client.options import AdaptOptions


@click.command()
@click.argument("adapted_model", metavar="ID", shell_complete=complete_ids)
@server_options()
@click.option(
    "--add",
    "folder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Add the images of this folder, which holds one folder of images for each class.",
)
@click.option(
    "--remove",
    "removed",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="INDEX",
    help="Leave this example out, by its index in the support set; may be repeated.",
)
@click.option(
    "--relabel",
    "relabelled",
    multiple=True,
    metavar="INDEX=CLASS",
    help="Give this example another class, known or new; may be repeated.",
)
@click.option("--etag", default="", help="Refuse unless the model still has this etag.")
@adapt_options
@timeout_option
@json_option
def command(
    adapted_model: str,
    server: Server,
    folder: Path | None,
    removed: tuple[int, ...],
    relabelled: tuple[str, ...],
    etag: str,
    timeout: float,
    as_json: bool,
    **options: Unpack[AdaptOptions],
) -> None:
    """Adapt anew to the changed support set of the adapted model ID, which stays as it is.

    Indices count the examples as they were sent, from 0. Options that are left out are those of the
    adapted model.
    """
    relabel = dict(map(read_relabelling, relabelled))
    if len(relabel) < len(relabelled):
        raise click.UsageError("--relabel: expected each index once, got one again")
    added = LabelledFiles((), (), ()) if folder is None else read_class_folders(folder, 1)
    print_warnings(added.remarks)
    check_files(added.files)
    with server.client(timeout) as client, waiting("adapting anew"):
        revised = client.revise(
            adapted_model,
            add=(added.files, added.labels) if added.files else None,
            relabel=relabel,
            remove=removed,
            etag=etag,
            **options,
        )
    if revised.report is not None:
        stayed = max(0, revised.description.support_count - len(added.files))
        names = [f"example {index}" for index in range(stayed)]
        print_warnings((*revised.report.warnings, *notes(revised.report, [*names, *added.files])))
    if as_json:
        print_document(document(revised) | {"parent": revised.description.parent})
    else:
        print_table(
            ("adapted model", revised.id), [("revised from", adapted_model), *rows(revised)]
        )


def read_relabelling(text: str) -> tuple[int, str]:
    """Read INDEX=CLASS; raise `UsageError` for another text."""
    index, equals, name = text.partition("=")
    if not equals or not name or not index.isdecimal():
        raise click.UsageError(
            f"--relabel: expected INDEX=CLASS with an index from 0, got {text!r}"
        )
    return int(index), name
