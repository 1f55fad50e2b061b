"""The frozen function of a bundle that turns prepared images into its network's input."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
import onnxruntime
from onnx.external_data_helper import uses_external_data

from kshot.bundle import Bundle, BundleError, TailSpec
from kshot.bundle.manifest import ENCODER_FILE
from kshot.server.predict.crops import cut, draw_windows
from kshot.server.predict.mac_count import count_macs
from kshot.server.predict.runtime import Runtime

Floats = npt.NDArray[np.float32]

IMAGES = "images"
ENCODED = "encoded"
MAPS = "maps"

_TIMED_CROPS, _TIMED_RUNS = 8, 4


class Encoder:
    """A bundle's encoder, ready to run; any thread may use it.

    `maps` computes the maps of crops, for a tail; None without a tail. `mac_count` counts the
    multiply-accumulate operations of an image.
    """

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
        self.mac_count = count_macs(path, {})
        tail = manifest.tail
        self.maps = None
        if tail is not None:
            self.maps = Maps(path, runtime, manifest.input.shape, tail, self.mac_count)

    def encode(self, images: Floats) -> Floats:
        """Map prepared `(n, *input.shape)` to `(n, *output_shape)`, all in one run."""
        (encoded,) = self._session.run([ENCODED], {IMAGES: images})
        return cast(Floats, encoded)


class Maps:
    """The part of an encoder that gives a tail its maps, ready to run; any thread may use it.

    ONNX Runtime computes an encoder as a whole, whatever outputs are asked for, so this part has a
    session of its own. `shape` is that of an image's maps, `seconds` the least that a crop took at
    the start, `mac_count` at least an image's operations.
    """

    def __init__(
        self,
        path: Path,
        runtime: Runtime,
        input_shape: tuple[int, ...],
        tail: TailSpec,
        mac_count: int,
    ) -> None:
        """Open the part of an encoder that was checked, and measure it."""
        self.shape = tail.map_shape
        self.mac_count = mac_count
        self._session = runtime.open(part_for_maps(path).SerializeToString())
        images = np.random.default_rng(0).random((_TIMED_CROPS, *input_shape), np.float32)
        windows = draw_windows(len(images), input_shape, seed=0)
        self.of(images)  # the first run is slow
        # On a CPU that of this thread: what else runs at the start does not count.
        clock = time.perf_counter if runtime.on_gpu else time.thread_time
        seconds = []
        for _ in range(_TIMED_RUNS):
            start = clock()
            self.of(cut(images, windows))
            seconds.append(clock() - start)
        self.seconds = min(seconds) / len(images)

    def of(self, images: Floats) -> Floats:
        """Map prepared `(n, *input.shape)` to `(n, *shape)`, all in one run."""
        (maps,) = self._session.run([MAPS], {IMAGES: images})
        return cast(Floats, maps)


def part_for_maps(path: Path) -> onnx.ModelProto:
    """Return what of an encoder gives the maps alone."""
    return onnx.utils.Extractor(onnx.load(path)).extract_model([IMAGES], [MAPS])


def check_encoder(session: onnxruntime.InferenceSession, bundle: Bundle) -> None:
    """Raise `BundleError` unless an encoder has the input and the outputs of its manifest.

    Maps for a tail may be there without one: trainings that start from a bundle keep its encoder.
    """
    manifest = bundle.manifest
    outputs: dict[str, tuple[int, ...]] = {ENCODED: manifest.network_input_shape}
    if manifest.tail is not None:
        outputs[MAPS] = manifest.tail.map_shape
    for kind, values, wanted, more in (
        ("input", session.get_inputs(), {IMAGES: manifest.input.shape}, set[str]()),
        ("output", session.get_outputs(), outputs, {MAPS}),
    ):
        got = {value.name: (value.type, tuple(value.shape)) for value in values}
        fits = [name in got and _fits(*got[name], shape) for name, shape in wanted.items()]
        if not all(fits) or got.keys() - wanted.keys() - more:
            expected = " and ".join(
                f"{name}, float32 of shape ({', '.join(map(str, ('n', *shape)))})"
                for name, shape in wanted.items()
            )
            shown = "; ".join(f"{name} {of} {list(shape)}" for name, (of, shape) in got.items())
            raise BundleError(
                f"{bundle.path / ENCODER_FILE}: {kind}: expected {expected}, got {shown or 'none'}"
            )


def _fits(kind: str, got: tuple[object, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether a value has this shape behind a free number of images."""
    if kind != "tensor(float)" or len(got) != 1 + len(shape) or isinstance(got[0], int):
        return False
    sides = zip(got[1:], shape, strict=True)
    return all(side == wanted for side, wanted in sides if isinstance(side, int))


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
