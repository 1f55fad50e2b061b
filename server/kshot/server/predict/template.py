"""A bundle's ONNX templates: their inputs, and their form with constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxruntime

from kshot.bundle import TAIL_CLASSES, TAIL_MIX, BatchNormMode, Bundle, BundleError

QUERIES = "inputs"
SUPPORT = "support"
LOGITS = "logits"
# The learner's linear head, which every network ends with: logits are linear in these.
HEAD = ("head.weight", "head.bias")


def check_template(
    session: onnxruntime.InferenceSession, bundle: Bundle, mode: BatchNormMode
) -> None:
    """Raise `BundleError` unless a template has the inputs that it will get, and gives logits."""
    wanted = {QUERIES, *bundle.read_weights().parameters}
    if mode is BatchNormMode.SUPPORT_AND_QUERY:
        wanted.add(SUPPORT)
    # Each network chooses the names of its statistics.
    free = mode is BatchNormMode.SUPPORT
    _check_values(session, bundle.template_path(mode), wanted, free=free)


def check_tail_template(session: onnxruntime.InferenceSession, bundle: Bundle, path: Path) -> None:
    """Raise `BundleError` unless a template has the inputs of an adapted tail, and gives logits."""
    tail = bundle.read_tail()
    wanted = {QUERIES, *bundle.read_weights().parameters, TAIL_CLASSES, TAIL_MIX}
    _check_values(session, path, wanted.union(tail.parameters if tail else ()))


def _check_values(
    session: onnxruntime.InferenceSession, path: Path, wanted: set[str], *, free: bool = False
) -> None:
    names = {value.name for value in session.get_inputs()}
    missing = sorted(wanted - names)
    extra = [] if free else sorted(names - wanted)
    if missing or extra:
        raise BundleError(
            f"{path}: inputs do not match the bundle's weights: missing {missing}, unknown {extra}"
        )
    if [value.name for value in session.get_outputs()] != [LOGITS]:
        raise BundleError(f"{path}: expected one output, {LOGITS}")


def used_names(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names that a template computes with: only these need constants.

    A network without batch statistics has a support set among its inputs and does not use it.
    """
    return frozenset(_used_names(graph))


def _used_names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _used_names(inner)


def expect_constants(template: bytes, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Turn all inputs of a template except the queries into external constants."""
    model = onnx.load_from_string(template)
    graph = model.graph
    for name, shape in shapes.items():
        tensor = graph.initializer.add(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    queries = [value for value in graph.input if value.name == QUERIES]
    del graph.input[:]
    graph.input.extend(queries)
    del graph.value_info[:]  # inner shapes follow from the constants'
    return model.SerializeToString()
