from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kshot.bundle import BatchNormMode, builtin_bundle, load_bundle
from kshot.server.predict.mac_count import count_macs, images_of_part


def test_shipped_networks_are_counted_as_by_hand() -> None:
    """Four 3 x 3 convolutions of 64 filters with stride 2, and a head of 256 features."""
    path = load_bundle(builtin_bundle("omniglot")).template_path(BatchNormMode.SUPPORT)

    first, others = 14 * 14 * 64 * 9, (7 * 7 + 4 * 4 + 2 * 2) * 64 * 64 * 9
    assert count_macs(path, {"way": 20}) == first + others + 256 * 20


def test_groups_products_and_transposed_convolutions_count(tmp_path: Path) -> None:
    """Zeros beside an image count as others do; unknown shapes count nothing."""

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "t"], ["b"], strides=[2, 2]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "g"], ["d"], transB=1),
        helper.make_node("MatMul", ["d", "m"], ["e"]),
        helper.make_node("Foreign", ["e"], ["f"], domain="other"),
        helper.make_node("MatMul", ["f", "m"], ["out"]),
    ]
    tensors = [
        weights("w", 8, 1, 3, 3),
        weights("t", 8, 2, 2, 2),
        weights("g", 10, 2 * 12 * 12),
        weights("m", 10, 3),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", ["n", 4, 6, 6]), ("out", ["n", 3]))
    ]
    graph = helper.make_graph(nodes, "all", values[:1], values[1:], tensors)
    path = tmp_path / "all.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)

    wanted = 8 * 36 * 9 + 8 * 36 * 2 * 4 + 288 * 10 + 10 * 3
    assert count_macs(path, {}) == wanted


def test_parts_are_short_for_large_networks() -> None:
    assert images_of_part(0, 256) == images_of_part(10**6, 256) == 256
    assert images_of_part(10**7, 256) == 30
    assert images_of_part(10**12, 256) == 1
