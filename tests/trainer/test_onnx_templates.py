import re
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kshot.bundle import BatchNormMode
from kshot.learner import Conv4, initial_parameters, query_logits, support_statistics
from kshot.trainer.onnx_templates import build_template

MODES = tuple(BatchNormMode)
NETWORK = Conv4((1, 28, 28), filters=64)


@pytest.fixture(scope="module")
def templates() -> Mapping[BatchNormMode, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what pytest's own setting does to a test
        return {mode: build_template(NETWORK, mode) for mode in MODES}


@pytest.fixture(scope="module")
def sessions(
    templates: Mapping[BatchNormMode, bytes],
) -> Iterator[Mapping[BatchNormMode, onnxruntime.InferenceSession]]:
    """Open the templates at ONNX Runtime's default level of optimization."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    yield {
        mode: onnxruntime.InferenceSession(template, options, providers=["CPUExecutionProvider"])
        for mode, template in templates.items()
    }


def random_parameters(way: int, seed: int) -> dict[str, torch.Tensor]:
    """Draw weights as far from their start as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    parameters = initial_parameters(NETWORK, way, generator)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in parameters.items()
    }


def feeds(
    mode: BatchNormMode,
    parameters: Mapping[str, torch.Tensor],
    queries: torch.Tensor,
    support: torch.Tensor,
) -> dict[str, np.ndarray]:
    """Name a template's inputs as the server does."""
    given = {"inputs": queries, **parameters}
    if mode is BatchNormMode.SUPPORT:
        stacked = {name: value[None] for name, value in parameters.items()}
        statistics = support_statistics(NETWORK, stacked, support[None])
        given |= {name: value[0] for name, value in statistics.items()}
    elif mode is BatchNormMode.SUPPORT_AND_QUERY:
        given["support"] = support
    return {name: value.numpy() for name, value in given.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", [2, 5, 7, 20])
@pytest.mark.parametrize("support_count", [2, 100])
@pytest.mark.parametrize("query_count", [1, 25])
def test_a_template_answers_as_the_learner(
    sessions: Mapping[BatchNormMode, onnxruntime.InferenceSession],
    mode: BatchNormMode,
    way: int,
    support_count: int,
    query_count: int,
) -> None:
    generator = torch.Generator().manual_seed(way)
    queries = torch.rand(query_count, 1, 28, 28, generator=generator)
    support = torch.rand(support_count, 1, 28, 28, generator=generator)
    parameters = random_parameters(way, seed=way)

    (answer,) = sessions[mode].run(["logits"], feeds(mode, parameters, queries, support))

    stacked = {name: value[None] for name, value in parameters.items()}
    wanted = query_logits(NETWORK, stacked, queries[None], support[None], mode)[0]
    assert answer.shape == (query_count, way)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-4, rtol=0)


def shapes(values: object) -> dict[str, list[int | str]]:
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_named_by_what_they_are(
    templates: Mapping[BatchNormMode, bytes], mode: BatchNormMode
) -> None:
    graph = onnx.load_from_string(templates[mode]).graph

    wanted: dict[str, list[int | str]] = {"inputs": ["query_count", 1, 28, 28]}
    wanted |= {name: list(shape) for name, shape in NETWORK.body_shapes.items()}
    wanted |= {"head.weight": ["way", 256], "head.bias": ["way"]}
    if mode is BatchNormMode.SUPPORT:
        wanted |= {name: list(shape) for name, shape in NETWORK.statistics_shapes.items()}
    elif mode is BatchNormMode.SUPPORT_AND_QUERY:
        wanted["support"] = ["support_count", 1, 28, 28]
    assert shapes(graph.input) == wanted
    assert shapes(graph.output) == {"logits": ["query_count", "way"]}
    inner = shapes(graph.value_info).values()
    symbols = {
        word for shape in inner for axis in shape for word in re.findall("[a-z]\\w*", str(axis))
    }
    assert symbols <= {"query_count", "way", "support_count"}


@pytest.mark.parametrize("mode", MODES)
def test_a_template_is_small_and_says_nothing_of_where_it_was_made(
    templates: Mapping[BatchNormMode, bytes], mode: BatchNormMode
) -> None:
    template = templates[mode]

    assert len(template) < 20_000
    for trace in (b".py", b"site-packages", b"/home", b"/root", b"/tmp", b"/usr", b"File ", b"\\"):
        assert trace not in template
    model = onnx.load_from_string(template)
    assert not model.metadata_props
    assert not model.functions
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
    assert sum(len(tensor.raw_data) for tensor in model.graph.initializer) < 1000


def test_equal_networks_have_equal_templates(templates: Mapping[BatchNormMode, bytes]) -> None:
    again = build_template(Conv4((1, 28, 28), filters=64), BatchNormMode.SUPPORT)

    assert again == templates[BatchNormMode.SUPPORT]


def test_colour_and_odd_sides_are_exported_too() -> None:
    """One query of 3 x 21 x 30 normalized with given statistics."""
    network = Conv4((3, 21, 30), filters=4)
    generator = torch.Generator().manual_seed(0)
    parameters = initial_parameters(network, 3, generator)
    stacked = {name: value[None] for name, value in parameters.items()}
    support, query = torch.rand(2, 4, 3, 21, 30, generator=generator)
    statistics = support_statistics(network, stacked, support[None])
    session = onnxruntime.InferenceSession(
        build_template(network, BatchNormMode.SUPPORT), providers=["CPUExecutionProvider"]
    )

    given = {"inputs": query[:1], **parameters}
    given |= {name: value[0] for name, value in statistics.items()}
    (answer,) = session.run(None, {name: value.numpy() for name, value in given.items()})

    wanted = query_logits(network, stacked, query[None, :1], support[None], BatchNormMode.SUPPORT)
    np.testing.assert_allclose(answer, wanted[0].numpy(), atol=1e-4, rtol=0)
