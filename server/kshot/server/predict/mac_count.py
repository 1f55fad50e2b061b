"""How many multiply-accumulate operations an ONNX graph takes for one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import shape_inference

_LARGEST_SHAPE = 1024  # numbers in a tensor that others' shapes may depend on

# What takes about ten milliseconds on a core.
_PART_MACS = 3e8

Shapes = Mapping[str, tuple[int, ...]]


def count_macs(path: Path, free: Mapping[str, int]) -> int:
    """Count the multiply-accumulate operations of convolutions and matrix products.

    `free` gives free dimensions by name; others are 1, the number of images among them. What has
    no known shape counts nothing: all other operators together take a small part of the time.
    """
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _LARGEST_SHAPE:
            tensor.ClearField("raw_data")  # only its shape is asked for
            tensor.ClearField("float_data")
    for value in model.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if not side.HasField("dim_value"):
                side.dim_value = free.get(side.dim_param, 1)
    del model.graph.value_info[:]
    del model.graph.output[:]
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, tuple[int, ...]] = {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return sum(_macs(node, shapes) for node in graph.node)


def images_of_part(mac_count: int, most: int) -> int:
    """Return how many images run at once on a CPU, so that other callers come in between soon."""
    return max(1, min(most, int(_PART_MACS // max(1, mac_count))))


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    known = all(name in shapes for name in (*node.input[:2], node.output[0]))
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or not known:
        return 0
    first, second = (shapes[name] for name in node.input[:2])
    if node.op_type == "ConvTranspose":  # weights (channels, outputs per group, *sides)
        return math.prod(first) * math.prod(second[1:])
    out = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":  # weights (outputs, channels per group, *sides)
        return out * math.prod(second[1:])
    transposed = any(each.name == "transA" and each.i for each in node.attribute)
    return out * first[-2 if transposed else -1]
