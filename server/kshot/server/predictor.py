"""Answers of adapted models: one ONNX Runtime session per template, weights as inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime

from kshot.bundle import BatchNormMode, Bundle, BundleError
from kshot.server.adapted_model import AdaptedArrays

Floats = npt.NDArray[np.float32]

# The images that go through the network at once, support sets beside each query included: four
# times as many leave the processor's caches and take 1.6 times as long for each.
MAX_RUN_IMAGES = 256

_ERRORS_ONLY = 3


class Predictor:
    """The templates of one bundle, ready to run; any thread may use it."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Load the templates; raise `BundleError` naming the one that does not fit."""
        self._sessions = {
            mode: _session(bundle, mode, threads) for mode in bundle.manifest.batch_norm.allowed
        }

    def logits(
        self,
        arrays: AdaptedArrays,
        inputs: Floats,
        mode: BatchNormMode,
        check: Callable[[], None] = lambda: None,
    ) -> Floats:
        """Return `(query_count, way)` for prepared `(query_count, channels, height, width)`.

        In `transductive` mode the queries are normalised together; else each answer stands alone.
        `check` is called before each run of the network; what it raises ends the work.
        """
        feeds: dict[str, Floats] = dict(arrays.parameters)
        if mode is BatchNormMode.SUPPORT:
            feeds |= arrays.statistics
        if mode is BatchNormMode.SUPPORT_AND_QUERY:
            feeds["support"] = arrays.support
        images_per_query = len(arrays.support) + 1 if mode is BatchNormMode.SUPPORT_AND_QUERY else 1
        chunk = max(1, MAX_RUN_IMAGES // images_per_query)
        if mode is BatchNormMode.TRANSDUCTIVE:
            chunk = len(inputs)
        session = self._sessions[mode]
        parts = []
        for start in range(0, len(inputs), chunk):
            check()
            part = feeds | {"inputs": inputs[start : start + chunk]}
            parts.append(_run(session, part, images_per_query))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _run(
    session: onnxruntime.InferenceSession, feeds: dict[str, Floats], images_per_query: int
) -> Floats:
    options = onnxruntime.RunOptions()
    if len(feeds["inputs"]) * images_per_query > MAX_RUN_IMAGES:
        # What one large request took is given back, not kept for the next.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    (logits,) = session.run(["logits"], feeds, options)
    return cast(Floats, logits)


def _session(bundle: Bundle, mode: BatchNormMode, threads: int) -> onnxruntime.InferenceSession:
    path = bundle.template_path(mode)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(path, options, providers=_providers())
    except Exception as error:
        # ONNX Runtime's exceptions have no common base.
        raise BundleError(f"{path}: is not a model that ONNX Runtime can run") from error
    _check(session, bundle, mode)
    return session


def _check(session: onnxruntime.InferenceSession, bundle: Bundle, mode: BatchNormMode) -> None:
    path = bundle.template_path(mode)
    names = {value.name for value in session.get_inputs()}
    wanted = {"inputs", *bundle.read_weights().parameters}
    if mode is BatchNormMode.SUPPORT_AND_QUERY:
        wanted.add("support")
    missing = sorted(wanted - names)
    # The names of the statistics are the network's own affair.
    extra = [] if mode is BatchNormMode.SUPPORT else sorted(names - wanted)
    if missing or extra:
        raise BundleError(
            f"{path}: lacks the inputs {missing}, has the unknown inputs {extra}, "
            "wanted those of weights.safetensors"
        )
    if [value.name for value in session.get_outputs()] != ["logits"]:
        raise BundleError(f"{path}: wanted one output, logits")


def _providers() -> list[object]:
    """Ask for CUDA only where there is a device: elsewhere it complains and falls back."""
    device_there = any(Path("/dev").glob("nvidia[0-9]*"))
    if device_there and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # TF32 would keep ten bits of each factor.
        return [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
