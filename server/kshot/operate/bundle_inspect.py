"""`kshot bundle inspect`: what a bundle is."""

from __future__ import annotations

import json
from typing import Any

import click

from kshot.bundle import Bundle, BundleError, load_bundle, locate_bundle, manifest_document
from kshot.client.commands.options import json_option, print_described, print_document, print_table


@click.command(name="inspect")
@click.argument("bundle", metavar="PATH|NAME")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Show what a bundle is: shapes, options, limits, digests, training.

    It is a folder NAME/VERSION, or the name of a built-in or built bundle. All digests are checked.
    """
    found = open_bundle(bundle)
    if as_json:
        manifest = manifest_document(found.manifest)
        print_document({"path": str(found.path), "digest": found.digest, "manifest": manifest})
        return
    print_described(("bundle", f"{found.manifest.name}@{found.manifest.version}"), _rows(found))
    if found.manifest.evaluation:
        print_table(
            ("way", "shot", "steps", "mode", "tasks", "accuracy, %"),
            [
                (
                    str(row.way),
                    str(row.shot),
                    str(row.step_count),
                    row.batch_norm_mode,
                    str(row.task_count),
                    f"{100 * row.accuracy:.1f}",
                )
                for row in found.manifest.evaluation
            ],
            title="measured accuracy",
        )


def open_bundle(name: str) -> Bundle:
    """Open a bundle by its folder or its name; raise `click.ClickException` if it is invalid."""
    try:
        return load_bundle(locate_bundle(name))
    except BundleError as error:
        raise click.ClickException(str(error)) from error


def _rows(bundle: Bundle) -> dict[str, object]:
    """Return what people read of a bundle."""
    manifest = bundle.manifest
    document: dict[str, Any] = manifest_document(manifest)
    inner, encoder = manifest.inner_loop, manifest.encoder
    steps = inner.step_count_by_shot or ()
    by_shot = ", ".join(f"{each.step_count} up to {each.max_shot} shot" for each in steps)
    provenance = document["provenance"]
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "network": f"{manifest.network.name} {json.dumps(dict(manifest.network.arguments))}",
        "input": f"{_shape(manifest.input.shape)} float32",
        "preprocessing": [_step(each) for each in document["input"]["preprocessing"]],
        "encoder": "none" if encoder is None else f"gives {_shape(encoder.output_shape)}",
        "tail": "none" if manifest.tail is None else "adapts with scope auto",
        "steps": f"{inner.step_count}" + (f"; {by_shot}" if by_shot else ""),
        "learning rate": f"{inner.learning_rate:g} ({inner.optimizer})",
        "batch-norm modes": _choices(manifest.batch_norm.default, manifest.batch_norm.allowed),
        "preconditioners": _choices(inner.preconditioner, inner.preconditioners),
        "heads": _choices(manifest.head.default, manifest.head.allowed),
        "scopes": _choices(manifest.scope.default, manifest.scope.allowed),
        "limits": dict(document["limits"]),
        "trained for": f"{manifest.training.way}-way, {manifest.training.shot}-shot tasks",
        "training": {name: value for name, value in provenance.items() if _plain(value)},
        "libraries": dict(provenance["library_versions"]),
        "calibrated": "no" if manifest.calibration is None else "yes",
        "files": {
            name: f"{entry.size_bytes} bytes, SHA-256 {entry.sha256}"
            for name, entry in manifest.files.items()
        },
    }


def _step(step: dict[str, Any]) -> str:
    settings = " ".join(f"{name} {value}" for name, value in step.items() if name != "step")
    return f"{step['step']} {settings}".strip()


def _choices(default: str, allowed: tuple[str, ...]) -> str:
    others = [str(each) for each in allowed if each != default]
    return f"{default} (default)" + (f", {', '.join(others)}" if others else "")


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _plain(value: object) -> bool:
    return value is not None and not isinstance(value, dict)
