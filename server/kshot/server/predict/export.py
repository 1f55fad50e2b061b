"""An adapted model as one ONNX file that runs without this server."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
import onnx.numpy_helper

from kshot.bundle import BatchNormMode, Bundle, manifest_document
from kshot.server.predict.encoder import ENCODED, IMAGES
from kshot.server.predict.template import LOGITS, used_names
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord

# Of a record, what an export has besides the properties of its own.
ADAPTATION_FIELDS = (
    "adaptation_digest",
    "step_count",
    "support_accuracy",
    "support_digest",
    "support_count",
    "model_version",
    "library_versions",
)

_INPUT = "inputs"
# What no list of steps says of pictures.
_PICTURES = (
    "Take the first frame, upright by Exif, with 8 bits a channel (16-bit gray divided by 257), "
    "transparent pixels over white, gray as ITU-R 601. Apply the steps in order; resizes are "
    "Pillow's, which average over the pixels that they leave out, except nearest. The server "
    "decodes large JPEG files at a smaller scale, so answers to them can differ a little."
)
_VECTORS = "The model takes no pictures: inputs are the vectors it was adapted to."
_UNDIVIDED, _TEMPERATURE = "logits/undivided", "logits/temperature"


def template_bytes(bundle: Bundle, arrays: AdaptedArrays, mode: BatchNormMode) -> int:
    """Return the bytes of the files that an export joins with an adapted model's arrays."""
    tail = bundle.tail_template_path if arrays.has_tail else None
    paths = (tail or bundle.template_path(mode), bundle.encoder_path)
    return sum(bundle.manifest.files[path.name].size_bytes for path in paths if path is not None)


def most_template_bytes(bundle: Bundle) -> int:
    """Return the bytes of a bundle's largest template, without its encoder."""
    files, encoder = bundle.manifest.files, bundle.encoder_path
    skipped = None if encoder is None else encoder.name
    sizes = (
        each.size_bytes
        for name, each in files.items()
        if name.endswith(".onnx") and name != skipped
    )
    return max(sizes, default=0)


def export_model(
    bundle: Bundle, arrays: AdaptedArrays, adapted: AdaptedModelRecord, mode: BatchNormMode
) -> bytes:
    """Return an ONNX file: `inputs` (prepared) to `logits`, weights within, facts as metadata.

    `arrays` are those of `adapted`, which was made from `bundle`. A last node divides the logits by
    the bundle's temperature, so their softmax is calibrated. A bundle's encoder comes before the
    adapted network. docs/languages.md has a table of the metadata's keys.
    """
    model = build_export(bundle, arrays, adapted, mode)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def build_export(
    bundle: Bundle, arrays: AdaptedArrays, adapted: AdaptedModelRecord, mode: BatchNormMode
) -> onnx.ModelProto:
    """Return the model of `export_model`, unchecked."""
    way = len(adapted.class_names)
    temperature = bundle.manifest.temperature(mode, way, len(arrays.support))
    with_tail = bundle.tail_template_path if arrays.has_tail else None
    model = onnx.load(with_tail or bundle.template_path(mode))
    constants = dict(arrays.parameters) | dict(arrays.statistics) | {"support": arrays.support}
    _fill(model.graph, constants)
    if temperature != 1:
        _divide(model.graph, temperature)
    _name_way(model.graph, way)
    if bundle.encoder_path is not None:
        model = _behind_encoder(model, onnx.load(bundle.encoder_path))
    encoder = () if bundle.encoder_path is None else ("encoder",)
    steps = ("preparation", "softmax") if bundle.manifest.input.preprocessing else ("softmax",)
    applied = {
        "kshot.applied": json.dumps([*encoder, "temperature"]),
        "kshot.to_apply": json.dumps(steps),
        "kshot.temperature_applied": repr(temperature),
    }
    onnx.helper.set_model_props(model, _properties(bundle, adapted, mode) | applied)
    model.doc_string = _description(bundle, adapted, mode)
    return model


def _fill(graph: onnx.GraphProto, constants: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Turn every used input except the queries into a constant, and drop the others."""
    used = used_names(graph)
    names = [value.name for value in graph.input if value.name != _INPUT and value.name in used]
    graph.initializer.extend(onnx.numpy_helper.from_array(constants[name], name) for name in names)
    queries = [value for value in graph.input if value.name == _INPUT]
    del graph.input[:]
    graph.input.extend(queries)


def _divide(graph: onnx.GraphProto, temperature: float) -> None:
    """Divide the logits: the adapted parameters stay what they are, bit for bit."""
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == LOGITS:
                node.output[index] = _UNDIVIDED
    divisor = np.float32(temperature)
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(divisor), _TEMPERATURE))
    graph.node.append(onnx.helper.make_node("Div", [_UNDIVIDED, _TEMPERATURE], [LOGITS]))


def _name_way(graph: onnx.GraphProto, way: int) -> None:
    """Replace the symbol for the number of classes; inner shapes follow from it."""
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = way


def _behind_encoder(model: onnx.ModelProto, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Join an encoder and the network that takes what it gives; both have the same opset."""
    queries, images = (
        graph.input[0].type.tensor_type.shape.dim[0] for graph in (model.graph, encoder.graph)
    )
    images.dim_param = queries.dim_param
    encoded = [value for value in encoder.graph.output if value.name == ENCODED]
    del encoder.graph.output[:]  # maps of a tail are part of what is encoded
    encoder.graph.output.extend(encoded)
    encoder.ir_version = model.ir_version
    prefix = "encoder/"
    joined: onnx.ModelProto = onnx.compose.merge_models(
        onnx.compose.add_prefix(encoder, prefix),
        model,
        [(prefix + ENCODED, _INPUT)],
    )
    for node in joined.graph.node:
        for index, name in enumerate(node.input):
            if name == prefix + IMAGES:
                node.input[index] = _INPUT
    joined.graph.input[0].name = _INPUT
    return joined


def _properties(bundle: Bundle, adapted: AdaptedModelRecord, mode: BatchNormMode) -> dict[str, str]:
    return {
        "kshot.model": adapted.model,
        "kshot.bundle_digest": adapted.bundle_digest,
        "kshot.weights_digest": adapted.weights_digest,
        "kshot.batch_norm_mode": mode.value,
        "kshot.class_names": json.dumps(list(adapted.class_names)),
        "kshot.input": json.dumps(manifest_document(bundle.manifest)["input"]),
        "kshot.pictures": _PICTURES if bundle.manifest.input.preprocessing else _VECTORS,
        "kshot.adaptation": json.dumps(_adaptation(adapted)),
    }


def _adaptation(adapted: AdaptedModelRecord) -> dict[str, object]:
    """Return what an import makes the record of; without its id, which gives access."""
    document = {name: getattr(adapted, name) for name in ADAPTATION_FIELDS}
    return {**document, "options": adapted.options.document()}


def _description(bundle: Bundle, adapted: AdaptedModelRecord, mode: BatchNormMode) -> str:
    shape = ", ".join(map(str, bundle.manifest.input.shape))
    return (
        f"A {len(adapted.class_names)}-way classifier adapted by kshot from {adapted.model}. "
        f"`inputs` is float32 (query_count, {shape}), prepared as the metadata kshot.input says; "
        "`logits` is float32 (query_count, way), its columns in the order of kshot.class_names and "
        "divided by kshot.temperature_applied already: only a softmax is left to do. "
        f"Batch norm: {mode.value}."
    )
