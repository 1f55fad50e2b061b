"""A bundle with an encoder answers as PyTorch does: in every mode, with head and all adapted."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNorm,
    BatchNormMode,
    Bundle,
    EncoderSpec,
    Head,
    InputSpec,
    Manifest,
    NetworkSpec,
    Preconditioner,
    Rescale,
    Resize,
    Rgb,
    Scope,
    Weights,
    prepare,
    write_bundle,
)
from kshot.client import Client
from kshot.learner import (
    Initialization,
    StepRule,
    build_inner_step,
    build_network,
    cycling_indices,
    initial_parameters,
    query_logits,
    run_inner_loop,
    start_state,
)
from kshot.trainer.bundling.onnx_templates import build_template

pytestmark = pytest.mark.compiled
StartServer = Callable[..., AbstractContextManager[Any]]

SHAPE, STEPS, RATE, SEED = (3, 8, 8), 5, 0.005, 3
ENCODER = """<ir_version: 10, opset_import: ["" : 20]>
encode (float[n,3,8,8] images) => (float[n,3,4,4] encoded) {
    maps = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(images)
    encoded = Tanh(maps)
}"""
NETWORKS = {
    "normalized": (NetworkSpec("mlp", {"hidden_units": 8, "hidden_layers": 1}), COMPUTED_MODES),
    "stored": (
        NetworkSpec("mlp", {"hidden_units": 8, "hidden_layers": 1, "batch_norm": False}),
        (BatchNormMode.STORED,),
    ),
}
SCOPES = (Scope.ALL, Scope.HEAD)
CASES = [(name, mode, scope) for name in NETWORKS for mode in NETWORKS[name][1] for scope in SCOPES]


def encoded(images: Tensor) -> Tensor:
    """Encode as the ONNX file does."""
    return torch.tanh(functional.max_pool2d(images, 2))


@pytest.fixture(scope="module")
def bundles(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles of two networks behind one encoder."""
    made = {}
    for name, (network, modes) in NETWORKS.items():
        steps = (Rgb(), Resize(8, 8, "box"), Rescale(1 / 255))
        own = replace(
            manifest,
            name=name,
            network=network,
            input=InputSpec(SHAPE, steps),
            encoder=EncoderSpec((3, 4, 4)),
            batch_norm=BatchNorm(modes[-1], modes),
        )
        built = build_network(network, own.network_input_shape, 1e-3)
        generator = torch.Generator().manual_seed(0)
        parameters = {
            key: value.numpy() for key, value in initial_parameters(built, 5, generator).items()
        }
        moment = {key: np.full_like(value, 1e-3) for key, value in parameters.items()}
        made[name] = write_bundle(
            tmp_path_factory.mktemp("encoders"),
            own,
            Weights(parameters, moment, step=100),
            {mode: build_template(built, mode) for mode in modes},
            "# encoder\n",
            encoder=onnx.parser.parse_model(ENCODER).SerializeToString(),
        )
    return made


@pytest.fixture(scope="module")
def client(
    start_server: StartServer,
    bundles: dict[str, Bundle],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("server")
    names = [word for bundle in bundles.values() for word in ("--bundle", str(bundle.path))]
    with (
        start_server(folder / "store", folder / "log", *names) as server,
        Client(server.address, timeout=120) as opened,
    ):
        yield opened


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 20, 16, 3), dtype=np.uint8)


def reference(
    bundle: Bundle,
    support: np.ndarray,
    labels: list[int],
    queries: np.ndarray,
    mode: BatchNormMode,
    scope: Scope,
) -> np.ndarray:
    """Adapt and answer with the learner alone: logits `(queries, way)`."""
    manifest = bundle.manifest
    initialization = Initialization.from_bundle(bundle, torch.device("cpu"))
    given, asked = (
        encoded(torch.from_numpy(prepare(images, manifest.input))) for images in (support, queries)
    )
    classes, rule = torch.tensor(labels), StepRule(Preconditioner.CARRIED, RATE)
    state = start_state(
        initialization,
        5,
        head=Head.PROTOTYPE,
        preconditioner=Preconditioner.CARRIED,
        support=given,
        classes=classes,
    )
    indices = cycling_indices(len(labels), manifest.default_batch_size(5), STEPS, SEED)
    step = build_inner_step(initialization.network, state.layout, rule, scope)
    adapted = run_inner_loop(step, state, given[None], classes[None], indices[None], rule).state
    parameters = adapted.layout.split(adapted.parameters)
    with torch.no_grad():
        network = initialization.network
        return query_logits(network, parameters, asked[None], given[None], mode)[0].numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("name", "mode", "scope"), CASES)
def test_the_servers_answer_is_pytorchs(
    client: Client,
    bundles: dict[str, Bundle],
    name: str,
    mode: BatchNormMode,
    scope: Scope,
    tmp_path: Path,
) -> None:
    """So is an export's, with ONNX Runtime alone."""
    support, queries, labels = pictures(10, 1), pictures(6, 2), [*range(5)] * 2
    wanted = softmax(reference(bundles[name], support, labels, queries, mode, scope))

    adapted = client.adapt(
        support,
        labels,
        model=name,
        step_count=STEPS,
        learning_rate=RATE,
        head="prototype",
        scope=scope.value,
        batch_norm_mode=mode.value,
        seed=SEED,
    )

    answer = adapted.predict(queries)
    np.testing.assert_allclose(answer.probabilities, wanted, rtol=0, atol=1e-4)
    exported = onnxruntime.InferenceSession(
        adapted.export(tmp_path / "mine.onnx"), providers=["CPUExecutionProvider"]
    )
    (logits,) = exported.run(None, {"inputs": prepare(queries, bundles[name].manifest.input)})
    np.testing.assert_allclose(softmax(logits), wanted, rtol=0, atol=1e-4)


def test_stored_statistics_need_no_support_set(client: Client) -> None:
    """What an encoder makes of a support set may be larger than the adapted network."""
    few, many = (
        client.adapt(
            pictures(5 * shot, 1),
            [*range(5)] * shot,
            model="stored",
            step_count=1,
            retain_support=False,
        )
        for shot in (1, 9)
    )

    assert abs(few.description.size_bytes - many.description.size_bytes) < 100  # the header
