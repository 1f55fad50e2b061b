import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNormMode,
    Bundle,
    Manifest,
    NetworkSpec,
    Scope,
    load_bundle,
)
from kshot.learner import (
    Conv4,
    Features,
    Initialization,
    Mlp,
    Network,
    Resnet12,
    StepSpec,
    Tail,
    build_network,
    initial_parameters,
    layout_of,
    mixed_logits,
    query_logits,
    split_maps,
    support_statistics,
)
from kshot.trainer.bundling import packaging
from kshot.trainer.bundling.onnx_templates import build_template
from kshot.trainer.bundling.packaging import draft_manifest, pack_bundle
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.recipe.recipe import Recipe

MODES = COMPUTED_MODES
NETWORK = Conv4((1, 28, 28), filters=64)
# As ONNX Runtime calls them in an optimized graph, and what only changes the order in memory.
CONVOLUTIONS = ("Conv", "FusedConv")
REORDERINGS = ("ReorderInput", "ReorderOutput")


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


def random_parameters(way: int, seed: int, network: Network = NETWORK) -> dict[str, torch.Tensor]:
    """Draw weights as far from their start as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    parameters = initial_parameters(network, way, generator)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in parameters.items()
    }


def feeds(
    mode: BatchNormMode,
    parameters: Mapping[str, torch.Tensor],
    queries: torch.Tensor,
    support: torch.Tensor,
    network: Network = NETWORK,
) -> dict[str, np.ndarray]:
    """Name a template's inputs as the server does."""
    given = {"inputs": queries, **parameters}
    if mode is BatchNormMode.SUPPORT:
        stacked = {name: value[None] for name, value in parameters.items()}
        statistics = support_statistics(network, stacked, support[None])
        given |= {name: value[0] for name, value in statistics.items()}
    elif mode is BatchNormMode.SUPPORT_AND_QUERY:
        given["support"] = support
    return {name: value.numpy() for name, value in given.items()}


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("mode", "way", "support_count", "query_count"),
    [
        *itertools.product(MODES, [2, 5, 7, 20], [2, 20], [1, 25]),
        (BatchNormMode.SUPPORT_AND_QUERY, 20, 100, 1),
    ],
)
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


def with_constants(template: bytes, constants: Mapping[str, np.ndarray]) -> bytes:
    """Move a template's inputs, all but the queries, to its constants."""
    model = onnx.load_from_string(template)
    queries = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(queries)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    return model.SerializeToString()


@pytest.mark.parametrize("way", [2, 5, 20])
def test_frozen_statistics_fold_into_convolutions(
    templates: Mapping[BatchNormMode, bytes], way: int, tmp_path: Path
) -> None:
    """ONNX Runtime makes convolution, batch norm and ReLU one step, and answers as the learner."""
    mode = BatchNormMode.SUPPORT
    generator = torch.Generator().manual_seed(way)
    queries = torch.rand(25, 1, 28, 28, generator=generator)
    support = torch.rand(5, 1, 28, 28, generator=generator)
    parameters = random_parameters(way, seed=way)
    constants = feeds(mode, parameters, queries, support)
    del constants["inputs"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the file is for this kind of processor only

    session = onnxruntime.InferenceSession(
        with_constants(templates[mode], constants), options, providers=["CPUExecutionProvider"]
    )

    stacked = {name: value[None] for name, value in parameters.items()}
    wanted = query_logits(NETWORK, stacked, queries[None], support[None], mode)[0].numpy()
    for count in (1, 25):
        (answer,) = session.run(["logits"], {"inputs": queries[:count].numpy()})
        np.testing.assert_allclose(answer, wanted[:count], atol=1e-4, rtol=0)
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    first, last = (
        index(i for i, node in enumerate(nodes) if node.op_type in CONVOLUTIONS)
        for index in (min, max)
    )
    assert {node.op_type for node in nodes[first : last + 1]} <= {*CONVOLUTIONS, *REORDERINGS}
    convolutions = [node for node in nodes if node.op_type in CONVOLUTIONS]
    assert len(convolutions) == 4
    for node in convolutions:
        assert {each.name: each.s for each in node.attribute}["activation"] == b"Relu"


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
def test_a_template_has_no_metadata(
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


OTHERS: Mapping[str, Network] = {
    "conv4 of odd colour images": Conv4((3, 21, 30), filters=4),
    "conv4 max_pool": Conv4((3, 21, 13), filters=4, downsampling="max_pool"),
    "features": Features((6, 1, 1), scale=3.0, learned_scale=True),
    "mlp": Mlp((2, 3, 1), hidden_units=6),
    "mlp tanh without batch norm": Mlp(
        (2, 3, 1), hidden_units=6, activation="tanh", batch_norm=False
    ),
    "resnet12": Resnet12((1, 13, 10), filters=2),
}


@pytest.mark.compiled
@pytest.mark.parametrize("network", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("mode", MODES)
def test_templates_answer_as_the_learner(network: Network, mode: BatchNormMode) -> None:
    """At ONNX Runtime's default level, odd sides that are pooled among them.

    Inputs below zero, and batch norms that turn them round, would lose against padding by zeros.
    """
    session = onnxruntime.InferenceSession(
        build_template(network, mode), providers=["CPUExecutionProvider"]
    )
    for way, support_count, query_count in ((2, 2, 1), (5, 9, 1), (5, 9, 6)):
        parameters = random_parameters(way, seed=way, network=network)
        parameters = {
            name: -value if name.endswith("scale") else value for name, value in parameters.items()
        }
        generator = torch.Generator().manual_seed(way)
        queries = -torch.rand(query_count, *network.input_shape, generator=generator)
        support = -torch.rand(support_count, *network.input_shape, generator=generator)

        given = feeds(mode, parameters, queries, support, network)
        (answer,) = session.run(["logits"], given)

        assert set(given) == {value.name for value in session.get_inputs()}
        stacked = {name: value[None] for name, value in parameters.items()}
        wanted = query_logits(network, stacked, queries[None], support[None], mode)[0]
        np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-4, rtol=0)


def test_a_bundle_packs_its_templates(
    small_recipe: Callable[..., Recipe],
    patterns: Callable[..., ImageDataset],
    make_initialization: Callable[[Manifest], Initialization],
    tmp_path: Path,
) -> None:
    recipe, dataset = small_recipe(), patterns()
    network = NetworkSpec("mlp", {"hidden_units": 6, "batch_norm": False})
    manifest = replace(draft_manifest(recipe, dataset), network=network)
    initialization = make_initialization(manifest)

    folder = pack_bundle(tmp_path, manifest, initialization, recipe, dataset)

    bundle = load_bundle(folder)
    for mode in MODES:
        packed = bundle.template_path(mode).read_bytes()
        assert packed == packaging.build_template(initialization.network, mode)  # built once


EXAMPLE = Path(__file__).parents[3] / "examples" / "network.py"


def test_a_foreign_network_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on the path, that kshot has never heard of."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "__init__.py").write_text(EXAMPLE.read_text())
    facts = tmp_path / "outside-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[kshot.networks]\nsmall = outside:SmallResidual\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec, shape = NetworkSpec("small", {"filters": 4}), (1, 6, 5)
    network = build_network(spec, shape, 1e-3)
    assert type(network).__module__ == "outside"
    step = StepSpec(
        network=spec,
        input_shape=shape,
        batch_norm_epsilon=1e-3,
        way=3,
        batch_size=6,
        updates_second_moment=True,
        second_moment_decay=0.999,
        epsilon=1e-8,
        scope=Scope.ALL,
    )
    generator = torch.Generator().manual_seed(0)
    vector = layout_of(network, 3).join(initial_parameters(network, 3, generator))[None]
    images, classes = torch.rand(6, *shape, generator=generator), torch.arange(6) % 3
    run, scale = step.build(), torch.full_like(vector, 1e-2)
    mask, size = torch.ones(1, 3, dtype=torch.bool), torch.tensor([2e-2])
    losses = [run(vector, scale, images[None], classes[None], mask, size).item() for _ in range(40)]
    stacked = layout_of(network, 3).split(vector)
    mode = BatchNormMode.SUPPORT
    session = onnxruntime.InferenceSession(
        build_template(network, mode), providers=["CPUExecutionProvider"]
    )

    parameters = {name: value[0] for name, value in stacked.items()}
    (answer,) = session.run(None, feeds(mode, parameters, images[:4], images, network))

    inputs = [value.name for value in session.get_inputs()]
    statistics = [f"{layer}.{of}" for layer in ("first", "second") for of in ("mean", "variance")]
    own = ["first.kernel", "second.kernel", "head.weight", "head.bias", *statistics]
    assert inputs == ["inputs", *own]
    assert losses[-1] < 0.5 * losses[0]
    wanted = query_logits(network, stacked, images[None, :4], images[None], mode)[0]
    np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-5, rtol=0)


def test_a_zero_vector_stays_one_in_onnx() -> None:
    """The exporter drops a number as small as 1e-12 from a sum: then a blank picture gives NaN."""
    network = Features((4, 1, 1), normalize=True)
    session = onnxruntime.InferenceSession(
        build_template(network, BatchNormMode.STORED), providers=["CPUExecutionProvider"]
    )
    vectors = np.zeros((2, 4, 1, 1), np.float32)
    vectors[1, 0] = 3

    (logits,) = session.run(
        None,
        {
            "inputs": vectors,
            "head.weight": np.ones((3, 4), np.float32),
            "head.bias": np.zeros(3, np.float32),
        },
    )

    assert logits.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("way", [2, 7])
def test_a_template_of_a_tail_answers_as_the_learner(tail_bundle: Bundle, way: int) -> None:
    spec = tail_bundle.manifest.tail
    assert spec is not None
    tail, files = Tail(spec), tail_bundle.read_tail()
    assert files is not None
    generator = torch.Generator().manual_seed(way)
    named = {name: torch.from_numpy(value) for name, value in files.parameters.items()} | {
        "head.weight": torch.randn(way, 12, generator=generator),
        "head.bias": torch.randn(way, generator=generator),
        "tail.classes": torch.randn(way, 8, generator=generator),
        "tail.mix": torch.tensor([0.7, 0.3]),
    }
    inputs = torch.randn(4, 60, 1, 1, generator=generator)
    session = onnxruntime.InferenceSession(files.template, providers=["CPUExecutionProvider"])

    feeds = {name: value.numpy() for name, value in named.items()}
    (logits,) = session.run(["logits"], {"inputs": inputs.numpy(), **feeds})

    head = inputs[:, :12, 0, 0] @ named["head.weight"].T + named["head.bias"]
    wanted = mixed_logits(head, tail.logits(named, split_maps(spec, inputs)), named["tail.mix"])
    assert {value.name for value in session.get_inputs()} == {"inputs", *named}
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-5)
