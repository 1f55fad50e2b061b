"""The logits of adapted models: a session per template, and one for each busy model."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from kshot.bundle import BatchNormMode, Bundle, BundleError
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.runtime import Runtime
from kshot.server.predict.template import (
    HEAD,
    LOGITS,
    QUERIES,
    SUPPORT,
    check_template,
    expect_constants,
    used_names,
)
from kshot.server.store.adapted_model import AdaptedArrays

Floats = npt.NDArray[np.float32]

# The images of one run, support sets beside queries included: four times as many exceed the
# processor's caches, and each takes 1.6 times as long.
MAX_RUN_IMAGES = 256


class Predictor:
    """The templates of one bundle, ready to run; any thread may use it."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime | None = None, hot_set: HotSet | None = None
    ) -> None:
        """Load the templates; raise `BundleError` naming an invalid one.

        On a CPU, busy adapted models get sessions in `hot_set`, unless only their heads are their
        own. On a GPU, weights are inputs.
        """
        self._manifest = bundle.manifest
        self._runtime = runtime or Runtime()
        modes = bundle.manifest.batch_norm.allowed
        self._templates = {mode: bundle.template_path(mode).read_bytes() for mode in modes}
        self._sessions = {mode: self._open(bundle, mode) for mode in modes}
        self._used = {
            mode: used_names(onnx.load_from_string(template).graph)
            for mode, template in self._templates.items()
        }
        # Behind an encoder there may be a head alone, which a session of its own hardly speeds up.
        head_alone = {QUERIES, SUPPORT, *HEAD}
        heavy = any(
            {value.name for value in session.get_inputs()} - head_alone
            for session in self._sessions.values()
        )
        self._head_alone = not heavy
        self._hot_set = hot_set if heavy and not self._runtime.on_gpu else None

    @property
    def head_alone(self) -> bool:
        """Tell whether the network is a head, which runs in less time than a thread takes up."""
        return self._head_alone

    def parts(self, arrays: AdaptedArrays, query_count: int, mode: BatchNormMode) -> list[slice]:
        """Return which queries run at once.

        In `transductive` mode all do: they are normalised together.
        """
        if mode is BatchNormMode.TRANSDUCTIVE:
            return [slice(0, query_count)]
        step = max(1, MAX_RUN_IMAGES // images_per_query(len(arrays.support), mode))
        return [slice(start, start + step) for start in range(0, query_count, step)]

    def logits(self, arrays: AdaptedArrays, inputs: Floats, mode: BatchNormMode) -> Floats:
        """Return `(query_count, way)` for prepared `(query_count, channels, height, width)`.

        In `transductive` mode the queries are normalised together; else each answer stands alone.
        They are divided by the bundle's temperature, so their softmax is calibrated.
        """
        per_query = images_per_query(len(arrays.support), mode)
        session, feeds = self._choose(arrays, mode, len(inputs) * per_query)
        answers = [
            _run(session, feeds | {QUERIES: inputs[part]}, per_query)
            for part in self.parts(arrays, len(inputs), mode)
        ]
        logits = answers[0] if len(answers) == 1 else np.concatenate(answers)
        temperature = self._manifest.temperature(mode, logits.shape[1], len(arrays.support))
        return logits if temperature == 1 else logits / np.float32(temperature)

    def make_session(
        self, mode: BatchNormMode, arrays: AdaptedArrays
    ) -> onnxruntime.InferenceSession:
        """Make a session with the arrays as constants."""
        feeds, used = _feeds(arrays, mode), self._used[mode]
        constants = {name: array for name, array in feeds.items() if name in used}
        shapes = {name: array.shape for name, array in constants.items()}
        return self._runtime.open(expect_constants(self._templates[mode], shapes), constants)

    def _choose(
        self, arrays: AdaptedArrays, mode: BatchNormMode, image_count: int
    ) -> tuple[onnxruntime.InferenceSession, dict[str, Floats]]:
        """Return the session that answers fastest, and its inputs beside the queries."""
        session = self._sessions[mode]
        if self._hot_set is not None:
            build = partial(self.make_session, mode)
            own = self._hot_set.find(arrays, mode, image_count, build)
            if own is not None:
                return own, {}
        return session, _feeds(arrays, mode)

    def _open(self, bundle: Bundle, mode: BatchNormMode) -> onnxruntime.InferenceSession:
        path = bundle.template_path(mode)
        try:
            session = self._runtime.open(path)
        except Exception as error:
            # ONNX Runtime's exceptions have no common base.
            raise BundleError(f"{path}: ONNX Runtime cannot load this file") from error
        check_template(session, bundle, mode)
        return session


def images_per_query(support_count: int, mode: BatchNormMode) -> int:
    """Return the images to run for a query: itself, in `support_and_query` the support set too."""
    return support_count + 1 if mode is BatchNormMode.SUPPORT_AND_QUERY else 1


def _feeds(arrays: AdaptedArrays, mode: BatchNormMode) -> dict[str, Floats]:
    """Return the inputs of a mode's template beside the queries."""
    feeds: dict[str, Floats] = dict(arrays.parameters)
    if mode is BatchNormMode.SUPPORT:
        feeds |= arrays.statistics
    if mode is BatchNormMode.SUPPORT_AND_QUERY:
        feeds[SUPPORT] = arrays.support
    return feeds


def _run(
    session: onnxruntime.InferenceSession, feeds: dict[str, Floats], images_per_query: int
) -> Floats:
    options = onnxruntime.RunOptions()
    if len(feeds[QUERIES]) * images_per_query > MAX_RUN_IMAGES:
        # Give the memory of a large request back instead of keeping it for the next.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    (logits,) = session.run([LOGITS], feeds, options)
    return cast(Floats, logits)
