"""The logits of adapted models: a session per template, and one for each busy model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from kshot.bundle import BatchNormMode, Bundle, BundleError
from kshot.server.predict.hot_set import HotSet
from kshot.server.predict.mac_count import count_macs, images_of_part
from kshot.server.predict.runtime import Runtime
from kshot.server.predict.template import (
    HEAD,
    LOGITS,
    QUERIES,
    SUPPORT,
    check_tail_template,
    check_template,
    expect_constants,
    used_names,
)
from kshot.server.store.adapted_model import AdaptedArrays

Floats = npt.NDArray[np.float32]

# The images of one run, support sets beside queries included: four times as many exceed the
# processor's caches, and each takes 1.6 times as long.
MAX_RUN_IMAGES = 256


@dataclass(frozen=True)
class _Template:
    """An ONNX template, a session of it, and the names that it computes with."""

    content: bytes
    session: onnxruntime.InferenceSession
    used: frozenset[str]

    @staticmethod
    def open(path: Path, runtime: Runtime) -> _Template:
        content = path.read_bytes()
        try:
            session = runtime.open(path)
        except Exception as error:
            # ONNX Runtime's exceptions have no common base.
            raise BundleError(f"{path}: ONNX Runtime cannot load this file") from error
        return _Template(content, session, used_names(onnx.load_from_string(content).graph))

    @property
    def heavy(self) -> bool:
        """Tell whether it takes more than a head."""
        names = {value.name for value in self.session.get_inputs()}
        return bool(names - {QUERIES, SUPPORT, *HEAD})


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
        self._templates: dict[BatchNormMode, _Template] = {}
        for mode in bundle.manifest.batch_norm.allowed:
            opened = _Template.open(bundle.template_path(mode), self._runtime)
            check_template(opened.session, bundle, mode)
            self._templates[mode] = opened
        self.mac_count = self._count_macs(bundle)
        self.run_images = MAX_RUN_IMAGES
        if not self._runtime.on_gpu:
            self.run_images = images_of_part(self.mac_count, MAX_RUN_IMAGES)
        self._tail: _Template | None = None
        if bundle.tail_template_path is not None:
            self._tail = _Template.open(bundle.tail_template_path, self._runtime)
            check_tail_template(self._tail.session, bundle, bundle.tail_template_path)
        # Behind an encoder there may be a head alone, which a session of its own hardly speeds up.
        self._heavy = any(template.heavy for template in self._templates.values())
        self._hot_set = None if self._runtime.on_gpu else hot_set

    @staticmethod
    def _count_macs(bundle: Bundle) -> int:
        """Count an image's operations; not every graph tells all shapes, so the most is right."""
        ways = {"way": bundle.manifest.limits.max_way}
        paths = map(bundle.template_path, bundle.manifest.batch_norm.allowed)
        return max(count_macs(path, ways) for path in paths)

    def head_alone(self, arrays: AdaptedArrays) -> bool:
        """Tell whether arrays are a head, which runs in less time than a thread takes up."""
        return not self._heavy and not arrays.has_tail

    def answers(self, arrays: AdaptedArrays, mode: BatchNormMode) -> bool:
        """Tell whether arrays have what a mode answers with, if the support set is not kept."""
        if mode is BatchNormMode.SUPPORT_AND_QUERY:
            return arrays.has_support
        if mode is BatchNormMode.SUPPORT and not arrays.statistics:
            inputs = self._template(arrays, mode).session.get_inputs()
            return {value.name for value in inputs} <= {QUERIES, *arrays.parameters}
        return True

    def parts(self, arrays: AdaptedArrays, query_count: int, mode: BatchNormMode) -> list[slice]:
        """Return which queries run at once: few enough that others do not wait long.

        In `transductive` mode all do: they are normalised together.
        """
        if mode is BatchNormMode.TRANSDUCTIVE:
            return [slice(0, query_count)]
        step = max(1, self.run_images // images_per_query(len(arrays.support), mode))
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
        feeds, template = _feeds(arrays, mode), self._template(arrays, mode)
        constants = {name: array for name, array in feeds.items() if name in template.used}
        shapes = {name: array.shape for name, array in constants.items()}
        return self._runtime.open(expect_constants(template.content, shapes), constants)

    def _choose(
        self, arrays: AdaptedArrays, mode: BatchNormMode, image_count: int
    ) -> tuple[onnxruntime.InferenceSession, dict[str, Floats]]:
        """Return the session that answers fastest, and its inputs beside the queries."""
        if self._hot_set is not None and not self.head_alone(arrays):
            build = partial(self.make_session, mode)
            own = self._hot_set.find(arrays, mode, image_count, build)
            if own is not None:
                return own, {}
        return self._template(arrays, mode).session, _feeds(arrays, mode)

    def _template(self, arrays: AdaptedArrays, mode: BatchNormMode) -> _Template:
        with_tail = self._tail if arrays.has_tail else None
        return with_tail or self._templates[mode]


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
