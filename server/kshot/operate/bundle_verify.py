"""`kshot bundle verify`: digests, graphs, and a prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from kshot.bundle import Bundle, BundleError
from kshot.client.commands.options import json_option, print_document
from kshot.operate.bundle_inspect import open_bundle
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.predictor import Predictor
from kshot.server.predict.runtime import Runtime
from kshot.server.predict.template import QUERIES, SUPPORT

Floats = npt.NDArray[np.float32]
_IMAGES = 2


@click.command(name="verify")
@click.argument("bundle", metavar="PATH|NAME")
@json_option
def command(bundle: str, as_json: bool) -> None:
    """Check a bundle as a server does, and predict with its initialization.

    Checks the digest of every file, every ONNX graph and its inputs, and that each batch-norm mode
    gives finite answers to noise. Exits with 1 at the first fault.
    """
    found = open_bundle(bundle)
    done = [f"{len(found.manifest.files)} files have the digests of the manifest"]
    if not as_json:
        click.echo(done[0])
    try:
        for line in check_bundle(found):
            done.append(line)
            if not as_json:
                click.echo(line)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        document = {"path": str(found.path), "digest": found.digest, "checks": done}
        print_document(document | {"valid": True})
    else:
        click.echo(f"{found.manifest.name}@{found.manifest.version} is valid")


def check_bundle(bundle: Bundle) -> Iterator[str]:
    """Yield a line for each thing that is in order; raise `BundleError` for what is not."""
    for path in _graphs(bundle):
        try:
            onnx.checker.check_model(path, full_check=True)
        except Exception as error:  # its errors, and those of shape inference, have no common base
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise BundleError(f"{path}: not a valid ONNX graph: {first}") from error
        yield f"{path.name}: a valid graph"
    runtime = Runtime("cpu", threads=1)
    Predictor(bundle, runtime)
    yield "the templates take the weights"
    noise = np.random.default_rng(0)
    inputs = noise.random((_IMAGES, *bundle.manifest.input.shape), np.float32)
    if bundle.encoder_path is not None:
        inputs = Encoder(bundle, runtime).encode(inputs)
        _check_finite(bundle.encoder_path, inputs)
        yield "the encoder gives finite numbers"
    parameters = bundle.read_weights().parameters
    for mode in bundle.manifest.batch_norm.allowed:
        path = bundle.template_path(mode)
        session = runtime.open(path)
        (logits,) = session.run(None, _feeds(session, parameters, inputs))
        _check_finite(path, logits)
        yield f"mode {mode}: finite answers for {logits.shape[1]} classes"


def _graphs(bundle: Bundle) -> list[Path]:
    templates = [bundle.template_path(mode) for mode in bundle.manifest.batch_norm.allowed]
    others = (bundle.encoder_path, bundle.tail_template_path)
    return [*templates, *(path for path in others if path is not None)]


def _feeds(
    session: onnxruntime.InferenceSession, parameters: Mapping[str, Floats], inputs: Floats
) -> dict[str, Floats]:
    """Return what a template takes; statistics of the support set are one."""
    feeds: dict[str, Floats] = {QUERIES: inputs, SUPPORT: inputs, **parameters}
    for value in session.get_inputs():
        if value.name not in feeds:
            feeds[value.name] = np.ones(value.shape, np.float32)
    names = {value.name for value in session.get_inputs()}
    return {name: array for name, array in feeds.items() if name in names}


def _check_finite(path: Path, numbers: Floats) -> None:
    if not np.isfinite(numbers).all():
        raise BundleError(f"{path}: expected finite numbers for noise, got others")
