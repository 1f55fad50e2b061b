import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from kshot.bundle import (
    BatchNormMode,
    Bundle,
    Grayscale,
    InputSpec,
    Manifest,
    NetworkSpec,
    Rescale,
    Resize,
    Weights,
    write_bundle,
)
from kshot.engine.device import LAUNCH_WIDTHS
from kshot.engine.models import LoadedModel, load_model
from kshot.engine.slot_tasks import step_spec
from kshot.engine.task import EngineTask
from kshot.engine.warm_up import blank_task
from kshot.internal.v1 import engine_pb2, engine_pb2_grpc
from kshot.learner import (
    StepCache,
    StepRule,
    StepSpec,
    build_inner_step,
    build_network,
    cycling_indices,
    default_cache_folder,
    initial_parameters,
    logits_of,
    run_inner_loop,
    start_state,
)

SIDE = 12
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """What the plain inner loop makes of a task."""

    parameters: Arrays
    statistics: Arrays
    support_losses: tuple[float, ...]
    support_accuracy: float


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Bundle:
    """A small untrained bundle; the engine reads no template, so theirs are only names."""
    network = NetworkSpec("conv4", {"filters": 8})
    return _write_small(tmp_path_factory.mktemp("bundles"), manifest, network)


@pytest.fixture(scope="session")
def perceptron_bundle(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Bundle:
    """A bundle whose step compiles in a third of the time of a convolution's."""
    network = NetworkSpec("mlp", {"hidden_units": 16, "hidden_layers": 1})
    return _write_small(tmp_path_factory.mktemp("perceptron"), manifest, network)


def _write_small(folder: Path, manifest: Manifest, network: NetworkSpec) -> Bundle:
    steps = (Grayscale(), Resize(SIDE, SIDE, "nearest"), Rescale(1 / 255))
    small = replace(
        manifest,
        name="small",
        network=network,
        input=InputSpec((1, SIDE, SIDE), steps),
        limits=replace(manifest.limits, max_step_count=20_000),
    )
    built = build_network(network, small.input.shape, small.batch_norm.epsilon)
    drawn = initial_parameters(built, 5, torch.Generator().manual_seed(1))
    parameters = {name: value.numpy() for name, value in drawn.items()}
    second_moment = {name: np.full_like(value, 1e-4) for name, value in parameters.items()}
    return write_bundle(
        folder,
        small,
        Weights(parameters, second_moment, 1000),
        dict.fromkeys(BatchNormMode, b"not read by the engine"),
        "# small\n",
    )


@pytest.fixture(scope="session")
def tailed(tail_bundle: Bundle) -> LoadedModel:
    """The model with a tail on the CPU, in this process, with one thread."""
    torch.set_num_threads(1)
    return load_model(tail_bundle, torch.device("cpu"))


@pytest.fixture
def tail_request(tail_bundle: Bundle) -> engine_pb2.AdaptRequest:
    """Ask for a 3-way 3-shot head, and a tail of 4 steps that 3 steps in each fold decide on."""
    generator = np.random.default_rng(0)
    shape = tail_bundle.manifest.network_input_shape
    assert tail_bundle.manifest.tail is not None
    support = generator.random((9, *shape), dtype=np.float32)
    crops = generator.random((2, 9, *tail_bundle.manifest.tail.map_shape), dtype=np.float32)
    return engine_pb2.AdaptRequest(
        model="tailed",
        bundle_digest=tail_bundle.digest,
        support=engine_pb2.Tensor(shape=support.shape, data=support.tobytes()),
        class_indices=[0, 1, 2] * 3,
        way=3,
        step_count=0,
        learning_rate=0.001,
        batch_size=5,
        preconditioner="carried",
        head="ridge",
        scope="auto",
        seed=7,
        tail=engine_pb2.TailTask(
            step_count=4,
            fold_step_count=3,
            crop_maps=engine_pb2.Tensor(shape=crops.shape, data=crops.tobytes()),
        ),
    )


@contextmanager
def running_engine(
    bundle: Bundle, socket: Path, device: str, *more: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run a ready engine, ended as the front ends it: its standard input closes."""
    command = [sys.executable, "-m", "kshot.engine", "--socket", str(socket)]
    with subprocess.Popen(
        [*command, "--bundle", str(bundle.path), "--device", device, *more],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == "engine_ready" for line in process.stderr)
        try:
            yield process
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:  # unix sockets want short paths
        yield Path(folder) / "engine.sock"


@pytest.fixture
def engine_process(bundle: Bundle, socket: Path) -> Iterator["subprocess.Popen[str]"]:
    """An engine for one test."""
    with running_engine(bundle, socket, "cpu", "--no-compile") as process:
        yield process


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    """A stub of an engine that computes uncompiled on the CPU; a module's tests share it."""
    with _engine_stub(bundle, "--no-compile") as stub:
        yield stub


@pytest.fixture(scope="module")
def tail_engine(tail_bundle: Bundle) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    """A stub of an engine with a model whose tail adapts; a module's tests share it."""
    with _engine_stub(tail_bundle, "--no-compile") as stub:
        yield stub


@pytest.fixture(scope="session")
def perceptron(perceptron_bundle: Bundle) -> LoadedModel:
    """The model of the compiled engine, in this process, with one thread."""
    torch.set_num_threads(1)
    return load_model(perceptron_bundle, torch.device("cpu"))


@pytest.fixture(scope="session")
def default_step(perceptron: LoadedModel) -> StepSpec:
    """The step of its defaults, compiled for each width of a launch: engines only load it."""
    spec, cache = step_spec(perceptron, blank_task(perceptron)), default_cache_folder()
    for width in LAUNCH_WIDTHS["cpu"]:
        StepCache.open(cache).compile(spec.of_tasks(width), perceptron.device)
    return spec.of_tasks(1)


@pytest.fixture
def small_step(perceptron: LoadedModel) -> StepSpec:
    """A step for a cache of one's own, whose C++ torch writes in a few seconds."""
    return step_spec(perceptron, blank_task(perceptron)).of_tasks(1)


@pytest.fixture(scope="module")
def compiled_engine(
    perceptron_bundle: Bundle,
    default_step: StepSpec,  # noqa: ARG001 -- asked for its effect
) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    """A stub of an engine on the CPU that compiles; a module's tests share it."""
    with pytest.MonkeyPatch.context() as patch:
        # Torch tries the processor and compiles as it does for users.
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "")
        patch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O1")
        with _engine_stub(perceptron_bundle) as stub:
            yield stub


@contextmanager
def _engine_stub(bundle: Bundle, *more: str) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:
        socket = Path(folder) / "engine.sock"
        with (
            running_engine(bundle, socket, "cpu", *more),
            grpc.insecure_channel(f"unix:{socket}") as channel,
        ):
            yield engine_pb2_grpc.EngineServiceStub(channel)


@pytest.fixture
def gpu_engine(bundle: Bundle, socket: Path) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    """A stub of an engine on the GPU."""
    with (
        running_engine(bundle, socket, "cuda"),
        grpc.insecure_channel(f"unix:{socket}") as channel,
    ):
        yield engine_pb2_grpc.EngineServiceStub(channel)


@pytest.fixture
def model(bundle: Bundle) -> LoadedModel:
    """The small model on the CPU, in this process, with one thread."""
    torch.set_num_threads(1)
    return load_model(bundle, torch.device("cpu"))


@pytest.fixture
def reference() -> Callable[[LoadedModel, EngineTask], Reference]:
    """Adapt without slots, compiler or padding: what every engine has to answer."""

    def adapt(model: LoadedModel, task: EngineTask) -> Reference:
        support, classes = torch.from_numpy(task.support), torch.from_numpy(task.classes)
        state = start_state(
            model.initialization,
            task.way,
            head=task.head,
            preconditioner=task.preconditioner,
            support=support,
            classes=classes,
        )
        rule = StepRule(task.preconditioner, task.learning_rate)
        network = model.initialization.network
        result = run_inner_loop(
            build_inner_step(network, state.layout, rule, task.scope),
            state,
            support[None],
            classes[None],
            cycling_indices(len(classes), task.batch_size, task.step_count, task.seed)[None],
            rule,
        )
        parameters = state.layout.split(result.state.parameters)
        with torch.no_grad():
            logits, statistics = logits_of(network, parameters, support[None])
        return Reference(
            {name: value[0].numpy() for name, value in parameters.items()},
            {name: value[0].numpy() for name, value in statistics.items()},
            tuple(result.losses[:, 0].tolist()),
            (logits[0].argmax(dim=1) == classes).float().mean().item(),
        )

    return adapt


@pytest.fixture
def request_message(bundle: Bundle) -> engine_pb2.AdaptRequest:
    """Ask for a 3-way 2-shot adaptation of 10 steps."""
    support = np.random.default_rng(0).random((6, 1, SIDE, SIDE), dtype=np.float32)
    return engine_pb2.AdaptRequest(
        model="small",
        bundle_digest=bundle.digest,
        support=engine_pb2.Tensor(shape=support.shape, data=support.tobytes()),
        class_indices=[0, 0, 1, 1, 2, 2],
        way=3,
        step_count=10,
        learning_rate=0.001,
        batch_size=5,
        preconditioner="carried",
        head="trained",
        scope="all",
        seed=2**64 - 1,
    )
