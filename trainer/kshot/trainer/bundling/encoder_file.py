"""An encoder as a user brings it: an ONNX file, checked and brought into a bundle's form."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnxruntime
from google.protobuf.message import DecodeError, EncodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from kshot.trainer.bundling.encoder_graph import (
    ENCODED,
    IMAGES,
    add_encoded,
    check_input,
    finish_shapes,
    name_images,
    to_opset,
    value_to_encode,
)
from kshot.trainer.errors import EncoderError

# Between files that compute the same, relative to their greatest output.
TOLERANCE = 1e-4

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class EncoderFile:
    """The content of `encoder.onnx`, and the shape `(channels, height, width)` that it gives."""

    content: bytes
    output_shape: Shape

    def run(self, images: Floats) -> Floats:
        """Encode prepared images `(n, channels, height, width)`."""
        return _run(self.content, images)


def read_encoder(
    path: Path, input_shape: Shape, cut: str | None = None, *, pooled: bool = True
) -> EncoderFile:
    """Read an ONNX file, external data beside it included; raises `EncoderError`.

    The file has one input, float32 `(n, *input_shape)`, and gives features `(n, F)`, or maps
    `(n, channels, height, width)` that are averaged over their sides where `pooled`. `cut` names
    the value to encode where the file has several outputs, or one between input and output.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise EncoderError(f"{path}: expected an ONNX model, got something else") from error
    try:
        _load_external_data(model, path)
        return fit_encoder(model, str(path), input_shape, cut, pooled=pooled)
    except UnicodeDecodeError as error:  # onnx checks text when it is read
        raise EncoderError(f"{path}: not a valid ONNX model: a name is not UTF-8") from error


def fit_encoder(
    model: onnx.ModelProto,
    source: str,
    input_shape: Shape,
    cut: str | None = None,
    *,
    pooled: bool = True,
    map_shape: Shape | None = None,
) -> EncoderFile:
    """Bring a whole model into a bundle's form; see `read_encoder`. `source` names it in errors.

    With a `map_shape` the model's output `maps` stays: maps `(n, *map_shape)` for a tail.
    """
    _check_operators(model, source)
    try:
        model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of no common base
        raise EncoderError(
            f"{source}: its local functions cannot be inlined: {_first_line(error)}"
        ) from error
    images = check_input(model.graph, source, input_shape)
    value = value_to_encode(model.graph, source, cut)
    model = to_opset(model, source)
    value = name_images(model.graph, images, value, input_shape)
    sample = np.random.default_rng(0).normal(size=(3, *input_shape)).astype(np.float32)
    found = _first_run(model, source, value, sample)
    add_encoded(model.graph, source, value, found.shape, pooled=pooled, map_shape=map_shape)
    encoded = _run(_content(model, source), sample)
    shape: Shape = (encoded.shape[1], encoded.shape[2], encoded.shape[3])
    finish_shapes(model, shape)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EncoderError(f"{source}: not a valid ONNX model: {_first_line(error)}") from error
    file = EncoderFile(_content(model, source), shape)
    alone = np.concatenate([file.run(sample[index : index + 1]) for index in range(len(sample))])
    if not np.isfinite(encoded).all():
        raise EncoderError(f"{source}: gives numbers that are not finite for random images")
    if difference(alone, encoded) > TOLERANCE:
        raise EncoderError(
            f"{source}: expected each image to be encoded by itself, got outputs that depend on "
            "the others of a batch; export the model in evaluation mode"
        )
    return file


def difference(found: Floats, wanted: Floats) -> float:
    """Return the greatest difference of two outputs, relative to the greatest number wanted."""
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Read tensors that lie in other files of the model's folder."""
    folder = path.resolve().parent
    for tensor in _tensors(model):
        if not uses_external_data(tensor):
            continue
        location = next((item.value for item in tensor.external_data if item.key == "location"), "")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise EncoderError(
                f"{path}: expected external data in the folder of the model, got {location!r}"
            )
        if not file.is_file():
            raise EncoderError(f"{path}: the file of its external data is missing: {location!r}")
    try:
        load_external_data_for_model(model, str(folder))
        for tensor in _tensors(model):
            tensor.ClearField("data_location")
    except Exception as error:  # it checks lengths and links, with exceptions of any kind
        raise EncoderError(f"{path}: external data cannot be read: {_first_line(error)}") from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in _nodes(model.graph.node):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _check_operators(model: onnx.ModelProto, source: str) -> None:
    """Refuse operators that are not ONNX's own: they would need code beside the bundle."""
    local = {(function.domain, function.name) for function in model.functions}
    bodies = (model.graph.node, *(function.node for function in model.functions))
    custom = sorted(
        {
            f"{node.domain}::{node.op_type}"
            for body in bodies
            for node in _nodes(body)
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in local
        }
    )
    if custom:
        raise EncoderError(
            f"{source}: expected ONNX's own operators alone, got custom operators: "
            f"{', '.join(custom)}"
        )


def _first_run(model: onnx.ModelProto, source: str, value: str, sample: Floats) -> Floats:
    """Run a model for one of its values, on three images and on one."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.output.append(onnx.ValueInfoProto(name=value))
    try:
        session = _session(_content(probe, source))
        session.run([value], {IMAGES: sample[:1]})
        (found,) = session.run([value], {IMAGES: sample})
    except EncoderError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise EncoderError(
            f"{source}: does not run on batches of 1 and of 3 images; export it with a dynamic "
            f"batch axis: {_first_line(error)}"
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
        raise EncoderError(f"{source}: output {value}: expected float32, got {kind}")
    if found.shape[:1] != (3,):
        raise EncoderError(
            f"{source}: output {value}: expected a row for each of 3 images, got shape "
            f"{found.shape}; export it with a dynamic batch axis"
        )
    return found


def _run(content: bytes, images: Floats) -> Floats:
    (encoded,) = _session(content).run([ENCODED], {IMAGES: images})
    return np.asarray(encoded)


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _content(model: onnx.ModelProto, source: str) -> bytes:
    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise EncoderError(f"{source}: expected a model of at most 2 GiB, got more") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
