import onnx
import onnx.parser

from kshot.trainer.bundling.onnx_graph import drop_axis_pairs


def parsed(nodes: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> graph (float[n, 3] x) => (float[n, 3] y) '
        f"<int64[1] zero = {{0}}, int64[1] same = {{0}}, int64[1] one = {{1}}> {{ {nodes} }}"
    )


def simplified(nodes: str) -> list[str]:
    model = parsed(nodes)
    drop_axis_pairs(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return [f"{node.op_type}({node.input[0]})" for node in model.graph.node]


def test_axis_pairs_are_removed() -> None:
    model = parsed("wide = Unsqueeze(x, zero) flat = Squeeze(wide, same) y = Relu(flat)")

    drop_axis_pairs(model.graph)

    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [("Relu", ["x"])]
    assert not model.graph.initializer


def test_pairs_within_pairs_are_dropped() -> None:
    nodes = (
        "a = Unsqueeze(x, zero) b = Squeeze(a, zero) c = Unsqueeze(b, one) d = Squeeze(c, one) "
        "y = Relu(d)"
    )

    assert simplified(nodes) == ["Relu(x)"]


def test_another_axis_stays() -> None:
    """The second drops another axis of size 1 than the first has put in."""
    nodes = "a = Unsqueeze(x, zero) b = Unsqueeze(a, one) c = Squeeze(b, zero) y = Squeeze(c, zero)"

    assert simplified(nodes) == ["Unsqueeze(x)", "Unsqueeze(a)", "Squeeze(b)", "Squeeze(c)"]


def test_an_axis_that_others_need_stays_for_them() -> None:
    nodes = (
        "wide = Unsqueeze(x, zero) flat = Squeeze(wide, zero) b = Add(flat, wide) "
        "y = Squeeze(b, zero)"
    )

    assert simplified(nodes) == ["Unsqueeze(x)", "Add(x)", "Squeeze(b)"]


def test_a_squeeze_of_unknown_axes_stays() -> None:
    assert simplified("a = Unsqueeze(x, zero) b = Squeeze(a) y = Relu(b)") == [
        "Unsqueeze(x)",
        "Squeeze(a)",
        "Relu(b)",
    ]


def test_a_pair_that_makes_the_output_stays() -> None:
    assert simplified("a = Unsqueeze(x, zero) y = Squeeze(a, zero)") == [
        "Unsqueeze(x)",
        "Squeeze(a)",
    ]
