"""`kshot models`: the adapted models that a server keeps."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click

from kshot.client.adapted_model import AdaptedModel
from kshot.client.commands.adapt import versioned
from kshot.client.commands.names import complete_ids
from kshot.client.commands.options import (
    Server,
    json_option,
    print_described,
    print_document,
    print_table,
    server_options,
    time_text,
    timeout_option,
)
from kshot.client.commands.progress import transferring
from kshot.client.options import choices
from kshot.local import leads_to_stdout


class _Time(click.DateTime):
    """A time with its zone; an error shows one instead of a pattern."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            expected = "expected a time with its zone, such as 2030-01-31T12:00:00Z"
            self.fail(f"{expected}, got {value!r}", param, ctx)


@click.group()
def command() -> None:
    """List, show, renew, delete, export or import adapted models."""


@command.command(name="list")
@server_options()
@click.option(
    "--model", default="", help="Only those adapted from NAME, NAME@VERSION or NAME@LABEL."
)
@click.option(
    "--filter",
    "terms",
    default="",
    metavar="TERMS",
    help="Only those that fit all terms, joined by AND: create_time, expire_time, size_bytes, "
    """class_name and bundle_digest, such as 'class_name = "cat" AND size_bytes > 1000'.""",
)
@timeout_option
@json_option
def list_models(server: Server, model: str, terms: str, timeout: float, as_json: bool) -> None:
    """List the adapted models that the server keeps."""
    with server.client(timeout) as client:
        kept = list(client.list(model=model, filter=terms))
    if as_json:
        print_document({"adapted_models": [document(adapted) for adapted in kept]})
        return
    headings = ("adapted model", "model", "classes", "kept until", "bytes")
    print_table(
        headings,
        [
            (
                adapted.id,
                versioned(adapted.description),
                ", ".join(adapted.class_names),
                str(time_text(adapted.expire_time)),
                str(adapted.description.size_bytes),
            )
            for adapted in kept
        ],
    )


@command.command()
@click.argument("adapted_model", metavar="ID", shell_complete=complete_ids)
@server_options()
@timeout_option
@json_option
def get(adapted_model: str, server: Server, timeout: float, as_json: bool) -> None:
    """Show the adapted model ID."""
    with server.client(timeout) as client:
        described = document(client.get(adapted_model))
    if as_json:
        print_document(described)
    else:
        print_described(("adapted model", adapted_model), described)


@command.command()
@click.argument("adapted_model", metavar="ID", shell_complete=complete_ids)
@server_options()
@click.option(
    "--ttl", type=float, metavar="SECONDS", help="Seconds from now until the model expires."
)
@click.option(
    "--expire-at",
    type=_Time(["%Y-%m-%dT%H:%M:%S%z"]),
    metavar="TIME",
    help="Time when the model expires, with its zone, such as 2030-01-31T12:00:00Z.",
)
@click.option("--etag", default="", help="Refuse unless the model still has this etag.")
@timeout_option
@json_option
def renew(
    adapted_model: str,
    server: Server,
    ttl: float | None,
    expire_at: datetime | None,
    etag: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Change when the adapted model ID expires, also to an earlier time: --ttl or --expire-at."""
    if (ttl is None) == (expire_at is None):
        raise click.UsageError("--ttl and --expire-at: expected one of them, got both or none")
    with server.client(timeout) as client:
        renewed = client.renew(adapted_model, ttl=ttl, expire_at=expire_at, etag=etag)
    if as_json:
        print_document(document(renewed))
    else:
        click.echo(f"{renewed.id} is kept until {time_text(renewed.expire_time)}")


@command.command(name="import")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@server_options()
@click.option("--ttl", type=float, metavar="SECONDS", help="Seconds that the server keeps it.")
@timeout_option
@json_option
def import_model(
    path: Path, server: Server, ttl: float | None, timeout: float, as_json: bool
) -> None:
    """Keep the adapted model of FILE again, which `export` wrote, under a new id.

    The server must serve the bundle that it was adapted from. It has no support set any more.
    """
    with server.client(timeout) as client, transferring(f"sending {path.name}") as tell:
        imported = client.import_model(path, ttl=ttl, progress=tell)
    if as_json:
        print_document(document(imported))
    else:
        print_described(("adapted model", imported.id), document(imported))


@command.command()
@click.argument(
    "adapted_models", metavar="ID...", nargs=-1, required=True, shell_complete=complete_ids
)
@server_options()
@timeout_option
@json_option
def delete(adapted_models: tuple[str, ...], server: Server, timeout: float, as_json: bool) -> None:
    """Delete adapted models; stops at the first that cannot be deleted."""
    with server.client(timeout) as client:
        for adapted_model in adapted_models:
            client.delete(adapted_model)
            if not as_json:
                click.echo(f"deleted {adapted_model}")
    if as_json:
        print_document({"deleted": list(adapted_models)})


@command.command()
@click.argument("adapted_model", metavar="ID", shell_complete=complete_ids)
@click.argument("path", type=click.Path(path_type=Path))
@server_options()
@click.option("--batch-norm-mode", type=click.Choice(choices("batch_norm_mode")))
@timeout_option
@json_option
def export(
    adapted_model: str,
    path: Path,
    server: Server,
    batch_norm_mode: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Write the adapted model ID to PATH as an ONNX file that needs nothing else.

    A file that is there is replaced. ONNX Runtime alone runs it. Its input is float32 (n, channels,
    height, width): pictures behind the steps in the metadata kshot.input (kshot.pictures says how
    to decode them). An encoder and the temperature are in the file; of the logits, take the
    softmax. examples/exported in the repository has whole programs for Python and JavaScript.
    """
    with server.client(timeout) as client, transferring(f"receiving {adapted_model}") as tell:
        written = client.export(adapted_model, path, batch_norm_mode=batch_norm_mode, progress=tell)
    # An export into stdout is nothing but the model.
    aside = leads_to_stdout(written)
    size_bytes = written.stat().st_size if written.is_file() and not aside else None
    if as_json:
        found = {"adapted_model": adapted_model, "path": str(written), "size_bytes": size_bytes}
        print_document(found, aside=aside)
    else:
        size = "" if size_bytes is None else f": {size_bytes} bytes"
        click.echo(f"wrote {click.format_filename(written)}{size}", err=aside)


def document(adapted: AdaptedModel) -> dict[str, object]:
    """Return the description of an adapted model, ready for JSON."""
    described = adapted.description
    return {
        "adapted_model": described.id,
        "model": described.model,
        "class_names": list(described.class_names),
        "step_count": described.step_count,
        "support_accuracy": described.support_accuracy,
        "options": asdict(described.options),
        "bundle_digest": described.bundle_digest,
        "weights_digest": described.weights_digest,
        "adaptation_digest": described.adaptation_digest,
        "create_time": time_text(described.create_time),
        "expire_time": time_text(described.expire_time),
        "size_bytes": described.size_bytes,
        "etag": described.etag,
        "model_version": described.model_version,
        "support_digest": described.support_digest,
        "support_count": described.support_count,
        "support_kept": described.support_kept,
        "library_versions": dict(described.library_versions),
        "parent": described.parent,
    }
