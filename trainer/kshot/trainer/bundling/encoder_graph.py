"""The graph of an encoder: its input, the value that is encoded, and their names in a bundle."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.version_converter

from kshot.trainer.bundling.onnx_graph import drop_unused
from kshot.trainer.bundling.onnx_templates import OPSET
from kshot.trainer.errors import EncoderError

IMAGES, ENCODED, MAPS = "images", "encoded", "maps"
_COUNT = "n"
_FLOAT = onnx.TensorProto.FLOAT
_SIDES = "kshot.sides"


def check_input(graph: onnx.GraphProto, source: str, input_shape: Sequence[int]) -> str:
    """Return the name of the only input; raise `EncoderError` unless it takes prepared images."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise EncoderError(f"{source}: expected one input, got {len(inputs)}: {names}")
    kind = inputs[0].type.tensor_type
    got = [axis.dim_value or axis.dim_param or "?" for axis in kind.shape.dim]
    fits = kind.elem_type == _FLOAT and (not got or len(got) == 4)
    for side, wanted in zip(got[1:], input_shape, strict=False):
        fits = fits and (not isinstance(side, int) or side == wanted)
    if not fits:
        known = onnx.TensorProto.DataType.values()
        dtype = f"the unknown type {kind.elem_type}"
        if kind.elem_type in known:
            dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise EncoderError(
            f"{source}: input {inputs[0].name}: expected float of shape "
            f"{['n', *input_shape]} as prepared images have, got {dtype} of shape {got}"
        )
    return inputs[0].name


def value_to_encode(graph: onnx.GraphProto, source: str, cut: str | None) -> str:
    """Return the name of the only output, or `cut`; raise `EncoderError` where it is not there."""
    outputs = [value.name for value in graph.output]
    if cut is None:
        if len(outputs) != 1:
            raise EncoderError(
                f"{source}: expected one output, got {len(outputs)}: {', '.join(outputs)}; name "
                "one of them by --cut"
            )
        return outputs[0]
    made = [name for node in graph.node for name in node.output if name]
    if cut not in made:
        close = get_close_matches(cut, made, n=3) or outputs
        raise EncoderError(
            f"{source}: --cut: no value {cut!r} in the graph; similar: {', '.join(close)}"
        )
    return cut


def to_opset(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Convert a model to the operators' version of the templates, so that both make one file."""
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    version = versions[0] if versions else 0
    if version != OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises nearly any exception
            raise EncoderError(
                f"{source}: expected opset {OPSET}, got {version}, which cannot be converted; "
                f"export it with opset {OPSET}"
            ) from error
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    return model


def name_images(graph: onnx.GraphProto, images: str, value: str, input_shape: Sequence[int]) -> str:
    """Name the input as in a bundle, with any number of images; return the new name of `value`."""

    def renamed(name: str) -> str:
        if name == images:
            return IMAGES
        return f"inner/{name}" if name in (IMAGES, ENCODED) else name

    _rename(graph, renamed)
    given = onnx.helper.make_tensor_value_info(IMAGES, _FLOAT, [_COUNT, *input_shape])
    del graph.input[:], graph.value_info[:]
    graph.input.append(given)
    return renamed(value)


def add_encoded(
    graph: onnx.GraphProto,
    source: str,
    value: str,
    shape: Sequence[int],
    *,
    pooled: bool,
    map_shape: Sequence[int] | None = None,
) -> None:
    """Give the value `(n, F)` or `(n, C, H, W)` out as `(n, F, 1, 1)`, or maps as they are.

    With a `map_shape` the output `maps` `(n, *map_shape)` stays beside it.
    """
    if len(shape) == 2:
        sides = onnx.numpy_helper.from_array(np.array([2, 3], np.int64), _SIDES)
        graph.initializer.append(sides)
        node = onnx.helper.make_node("Unsqueeze", [value, _SIDES], [ENCODED])
    elif len(shape) == 4:
        operator = "GlobalAveragePool" if pooled and tuple(shape[2:]) != (1, 1) else "Identity"
        node = onnx.helper.make_node(operator, [value], [ENCODED])
    else:
        raise EncoderError(
            f"{source}: output {value}: expected features (n, F) or maps (n, channels, height, "
            f"width), got shape {['n', *shape[1:]]}; choose another value by --cut"
        )
    graph.node.append(node)
    del graph.output[:]
    output = onnx.helper.make_tensor_value_info(ENCODED, _FLOAT, [_COUNT, None, None, None])
    graph.output.append(output)
    if map_shape is not None:
        graph.output.append(onnx.helper.make_tensor_value_info(MAPS, _FLOAT, [_COUNT, *map_shape]))
    drop_unused(graph)


def finish_shapes(model: onnx.ModelProto, shape: Sequence[int]) -> None:
    """State the output's shape, and remove what the exporter noted about itself."""
    axes = model.graph.output[0].type.tensor_type.shape.dim
    for axis, side in zip(axes[1:], shape, strict=True):
        axis.dim_value = side
    model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def _rename(graph: onnx.GraphProto, renamed: Callable[[str], str]) -> None:
    """Rename values everywhere in a graph, also where inner graphs see them."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = renamed(value.name)
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(list(names)):
                names[index] = renamed(name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, renamed)
