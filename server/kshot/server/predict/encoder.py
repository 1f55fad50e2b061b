"""The frozen function of a bundle that turns prepared images into its network's input."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx.external_data_helper import uses_external_data

from kshot.bundle import Bundle, BundleError
from kshot.bundle.manifest import ENCODER_FILE
from kshot.server.predict.runtime import Runtime

Floats = npt.NDArray[np.float32]

IMAGES = "images"
ENCODED = "encoded"


class Encoder:
    """A bundle's encoder, ready to run; any thread may use it."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        """Open the encoder of a bundle that has one; raise `BundleError` if it does not fit."""
        manifest = bundle.manifest
        path = bundle.path / ENCODER_FILE
        self.output_shape = manifest.network_input_shape
        try:
            self._session = runtime.open(path)
        except Exception as error:
            # ONNX Runtime's exceptions have no common base.
            raise BundleError(f"{path}: ONNX Runtime cannot load this file") from error
        check_encoder(self._session, bundle)
        _check_graph(bundle)

    def encode(self, images: Floats) -> Floats:
        """Map prepared `(n, *input.shape)` to `(n, *output_shape)`, all in one run."""
        (encoded,) = self._session.run([ENCODED], {IMAGES: images})
        return cast(Floats, encoded)


def check_encoder(session: onnxruntime.InferenceSession, bundle: Bundle) -> None:
    """Raise `BundleError` unless an encoder has the input and the output of its manifest."""
    path, manifest = bundle.path / ENCODER_FILE, bundle.manifest
    for kind, values, name, shape in (
        ("input", session.get_inputs(), IMAGES, manifest.input.shape),
        ("output", session.get_outputs(), ENCODED, manifest.network_input_shape),
    ):
        got = [(value.name, value.type, tuple(value.shape)) for value in values]
        fits = len(got) == 1 and got[0][:2] == (name, "tensor(float)")
        fits = fits and len(got[0][2]) == 4 and not isinstance(got[0][2][0], int)
        if not fits or any(
            isinstance(side, int) and side != wanted
            for side, wanted in zip(got[0][2][1:], shape, strict=True)
        ):
            wanted = ", ".join(map(str, ("n", *shape)))
            shown = "; ".join(f"{each[0]} {each[1]} {list(each[2])}" for each in got) or "none"
            raise BundleError(
                f"{path}: {kind}: expected {name}, float32 of shape ({wanted}), got {shown}"
            )


def _check_graph(bundle: Bundle) -> None:
    """Raise `BundleError` for an encoder whose operators or tensors lie outside of its bundle.

    Exports join encoder and template, so both need the same operators; those that are not ONNX's
    own would need a second set. No digest covers tensors in other files.
    """
    path = bundle.path / ENCODER_FILE
    template, encoder = (
        onnx.load(file, load_external_data=False)
        for file in (bundle.template_path(bundle.manifest.batch_norm.default), path)
    )
    outside = [each.name for each in encoder.graph.initializer if uses_external_data(each)]
    if outside:
        raise BundleError(
            f"{path}: expected all tensors in this file, got {outside[0]} in another; build the "
            "bundle again"
        )
    wanted, got = (
        sorted((each.domain or "ai.onnx", each.version) for each in model.opset_import)
        for model in (template, encoder)
    )
    if got != wanted:
        expected, found = (
            ", ".join(f"{domain} {version}" for domain, version in each) for each in (wanted, got)
        )
        raise BundleError(f"{path}: expected opset {expected}, as the templates have, got {found}")
