"""`kshot models`: the adapted models that a server keeps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from kshot.client.adapted_model import AdaptedModel
from kshot.client.commands.options import (
    Server,
    json_option,
    print_document,
    print_table,
    server_options,
    time_text,
    timeout_option,
)
from kshot.client.options import choices
from kshot.local import leads_to_stdout


@click.group()
def command() -> None:
    """List, show, delete or export adapted models."""


@command.command(name="list")
@server_options()
@click.option("--model", default="", help="Only those adapted from this model.")
@timeout_option
@json_option
def list_models(server: Server, model: str, timeout: float, as_json: bool) -> None:
    """List the adapted models that the server keeps."""
    with server.client(timeout) as client:
        kept = list(client.list(model=model))
    if as_json:
        print_document({"adapted_models": [document(adapted) for adapted in kept]})
        return
    headings = ("adapted model", "model", "classes", "kept until", "bytes")
    print_table(
        headings,
        [
            (
                adapted.id,
                adapted.description.model,
                ", ".join(adapted.class_names),
                str(time_text(adapted.expire_time)),
                str(adapted.description.size_bytes),
            )
            for adapted in kept
        ],
    )


@command.command()
@click.argument("adapted_model", metavar="ID")
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
        print_table(
            ("adapted model", adapted_model),
            [(name, text(value)) for name, value in described.items()],
        )


@command.command()
@click.argument("adapted_models", metavar="ID...", nargs=-1, required=True)
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
@click.argument("adapted_model", metavar="ID")
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
    """Write the adapted model ID to PATH as an ONNX file that needs nothing else."""
    with server.client(timeout) as client:
        written = client.export(adapted_model, path, batch_norm_mode=batch_norm_mode)
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
    }


def text(value: object) -> str:
    """Write a value of the document in one cell."""
    if isinstance(value, dict):
        return "\n".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
