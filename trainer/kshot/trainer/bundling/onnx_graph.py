"""Simplifies an exported ONNX graph: removes pairs of nodes that undo each other."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.numpy_helper


def drop_axis_pairs(graph: onnx.GraphProto) -> None:
    """Remove each `Squeeze` that undoes an `Unsqueeze`, then all that is unused.

    ONNX Runtime copies a tensor at each of them. Only axes that are constants are considered.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    sources: dict[str, str] = {}
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Squeeze" else None
        if maker is not None and maker.op_type == "Unsqueeze":
            axes = _axes(node, constants)
            if axes is not None and axes == _axes(maker, constants):
                source = maker.input[0]
                sources[node.output[0]] = sources.get(source, source)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = sources.get(name, name)
    drop_unused(graph)


def _axes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> list[int] | None:
    tensor = constants.get(node.input[1]) if len(node.input) > 1 else None
    return None if tensor is None else np.ravel(onnx.numpy_helper.to_array(tensor)).tolist()


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes, constants and value infos that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read_by(node))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    values = [value for value in graph.value_info if value.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(tensors)
    graph.value_info.extend(values)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those of its inner graphs among them."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                yield from _read_by(each)
            yield from (output.name for output in inner.output)
