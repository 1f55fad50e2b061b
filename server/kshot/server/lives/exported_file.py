"""An exported file that comes back: its facts and its numbers, read without running anything.

Only the values of the adapted parameters and statistics count. All else has to equal what this
server would export, so that nothing in a file but these decides an answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from kshot.bundle import TAIL_MIX, Bundle
from kshot.server.call_context import current_call
from kshot.server.errors import ImportNotServed, InvalidRequest
from kshot.server.limits.message_scan import MalformedError, holds_at_most
from kshot.server.lives.export_facts import ExportFacts, record_of, refusal
from kshot.server.lives.upload import UploadHeader
from kshot.server.predict.catalog import ServedModel
from kshot.server.predict.export import build_export
from kshot.server.predict.template import QUERIES, used_names
from kshot.server.request.digest import weights_digest
from kshot.server.request.options import TtlLimits
from kshot.server.store.adapted_model import TAIL, AdaptedArrays, AdaptedModelRecord

Floats = npt.NDArray[np.float32]
Find = Callable[[str, str], ServedModel | None]

# More than the largest export has: parsing takes time and memory by them.
_MAX_FIELDS = 100_000


def read_exported(
    sent: bytes | bytearray, header: UploadHeader, find: Find, ttls: TtlLimits
) -> tuple[AdaptedModelRecord, AdaptedArrays]:
    """Return the record and the arrays in an exported file, as without `retain_support`; blocks.

    `find` returns the model of a name and a bundle digest if it is served. Raises `InvalidRequest`,
    or `ImportNotServed` if it is not.
    """
    check, content = current_call().check, bytes(sent)
    if (found := hashlib.sha256(content).hexdigest()) != header.sha256:
        expected = f"expected the SHA-256 of the file that was sent, {found}, got another"
        raise InvalidRequest.about("header.sha256", f"{expected}; send it again")
    check()
    model, facts = _parsed(content)
    check()
    if (served := find(facts.model, facts.bundle_digest)) is None:
        raise ImportNotServed(facts.model[:64], facts.bundle_digest[:64])
    bundle = served.bundle
    adapted = record_of(facts, bundle.manifest, header.ttl, ttls)
    encoder = bundle.encoder_path
    least = 0 if encoder is None else bundle.manifest.files[encoder.name].size_bytes // 2
    if len(content) < least:  # else a few bytes could have a large encoder read
        raise refusal("a file that has its encoder", f"one of {len(content)} bytes")
    arrays = _arrays(model.graph, facts, bundle, adapted.support_count)
    check()
    if weights_digest(arrays.parameters) != facts.weights_digest:
        raise refusal("parameters with the digest that its metadata have", "others")
    check()
    wanted = build_export(bundle, arrays, adapted, facts.mode)
    same = wanted.graph == model.graph and wanted.opset_import == model.opset_import
    if not same or model.functions or model.training_info:
        raise refusal(f"the graph of an export of {facts.model} in mode {facts.mode}", "another")
    return adapted, arrays


def _parsed(content: bytes) -> tuple[onnx.ModelProto, ExportFacts]:
    model = onnx.ModelProto()
    try:
        if not holds_at_most(content, cast(Any, model.DESCRIPTOR), _MAX_FIELDS):
            raise refusal(f"at most {_MAX_FIELDS} fields", "more")
        model.ParseFromString(content)
        return model, ExportFacts.of(model)
    except (DecodeError, MalformedError) as error:
        raise refusal("an ONNX file", "other bytes") from error
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise refusal("the metadata of an export", "others") from error


def _arrays(
    graph: onnx.GraphProto, facts: ExportFacts, bundle: Bundle, support_count: int
) -> AdaptedArrays:
    try:
        tensors = {tensor.name: tensor for tensor in graph.initializer}
    except UnicodeDecodeError as error:
        raise refusal("names as text", "other bytes") from error
    with_tail = bundle.tail_template_path if TAIL_MIX in tensors else None
    template = onnx.load(with_tail or bundle.template_path(facts.mode)).graph
    if len(graph.node) < len(template.node):
        raise refusal(f"the graph of an export of {facts.model} in mode {facts.mode}", "another")
    shapes = _shapes(template, len(facts.class_names))
    arrays = {name: _array(name, tensors.get(name), shape) for name, shape in shapes.items()}
    own = bundle.read_weights().parameters
    parameters = {
        name: array for name, array in arrays.items() if name in own or name.startswith(TAIL)
    }
    statistics = {name: array for name, array in arrays.items() if name not in parameters}
    return AdaptedArrays(parameters, statistics, np.empty((support_count, 0, 1, 1), np.float32))


def _shapes(template: onnx.GraphProto, way: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the constants of an export; a free side is the number of classes."""
    used = used_names(template)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else way
            for dim in value.type.tensor_type.shape.dim
        )
        for value in template.input
        if value.name != QUERIES and value.name in used
    }


def _array(name: str, tensor: onnx.TensorProto | None, shape: tuple[int, ...]) -> Floats:
    """Return finite numbers that stand in the file itself."""
    if (
        tensor is None
        or tensor.data_type != onnx.TensorProto.FLOAT
        or tuple(tensor.dims) != shape
        or tensor.data_location == onnx.TensorProto.EXTERNAL
        or len(tensor.raw_data) != 4 * math.prod(shape)
    ):
        raise refusal(f"the numbers of {name}, float32 of shape {shape}", "others")
    array = np.frombuffer(tensor.raw_data, "<f4").reshape(shape).astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise refusal("finite numbers", f"others in {name}")
    return array
