"""What tests of several components start from."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kshot.bundle import (
    COMPUTED_MODES,
    BatchNorm,
    BatchNormMode,
    BatchSizeRule,
    Bundle,
    Grayscale,
    Head,
    HeadPolicy,
    InnerLoop,
    InputSpec,
    Limits,
    Manifest,
    NetworkSpec,
    Preconditioner,
    Provenance,
    Rescale,
    Resize,
    Scope,
    ScopePolicy,
    TailBlock,
    TailFiles,
    TailSpec,
    Training,
    Weights,
    builtin_bundle,
    load_bundle,
    write_bundle,
)

# ONNX Runtime reports to its maker from its import on; `kshot` sets this for its own processes.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from kshot.learner import StepSpec


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Let signals reach the processes that tests start, however this run was started.

    A background job of a shell ignores SIGINT, and one under `nohup` SIGHUP; children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Not the default: a closed terminal is not to end the run itself.
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def step_cache(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep compiled steps from one run of the tests to the next; their engines share them."""
    with pytest.MonkeyPatch.context() as patch:
        if "KSHOT_CACHE" not in os.environ:
            folder = pytestconfig.rootpath / ".pytest_cache" / "kshot"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            patch.setenv("KSHOT_CACHE", str(folder))
        # A spare beside each server would cost every test that starts one.
        patch.setenv("KSHOT_ENGINES", "1")
        # Torch builds programs in each process that compiles, to see what the processor can do.
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
        # What calls the compiled kernels need not be fast here.
        patch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
        yield


@pytest.fixture(scope="session")
def builtin_step(step_cache: None) -> "StepSpec":  # noqa: ARG001 -- asked for its effect
    """The default step of the built-in bundle, compiled: servers only load it."""
    import torch  # tests of the client start without it

    from kshot.learner import CompilationError, StepRule, StepSpec, compile_step

    torch.set_num_threads(1)
    manifest = load_bundle(builtin_bundle("omniglot")).manifest
    rule = StepRule.of(manifest.inner_loop, manifest.inner_loop.preconditioner)
    spec = StepSpec.of(manifest, 5, 5, rule, Scope.ALL)
    with suppress(CompilationError):  # without a compiler servers run plain steps
        compile_step(spec, torch.device("cpu"))
    return spec


@pytest.fixture(scope="session")
def path_without_compiler(
    builtin_step: "StepSpec",  # noqa: ARG001 -- asked for its effect
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Return a PATH for servers: they load the default step, and compile nothing beside the tests.

    With a compiler a server begins to compile further steps, which no test waits for.
    """
    return str(tmp_path_factory.mktemp("no-compiler"))


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """A manifest without files; tests replace what they care for."""
    return Manifest(
        name="tiny",
        version=1,
        network=NetworkSpec("conv4", {"filters": 64, "max_pool": False}),
        input=InputSpec(
            shape=(1, 28, 28),
            preprocessing=(Grayscale(), Resize(28, 28, "nearest"), Rescale(1 / 255)),
        ),
        inner_loop=InnerLoop(
            learning_rate=0.001,
            step_count=10,
            batch_size_by_way=(BatchSizeRule(5, 5), BatchSizeRule(20, 10)),
            batch_sizes=(5, 10),
            way_buckets=(5, 20),
            preconditioner=Preconditioner.CARRIED,
            preconditioners=tuple(Preconditioner),
        ),
        batch_norm=BatchNorm(BatchNormMode.SUPPORT, COMPUTED_MODES),
        training=Training(way=5, shot=1),
        head=HeadPolicy(Head.TRAINED, (Head.TRAINED, Head.PROTOTYPE, Head.ZERO)),
        scope=ScopePolicy(Scope.ALL, (Scope.ALL, Scope.HEAD)),
        limits=Limits(20, 400, 1000, 100, 0.1),
        provenance=Provenance(
            "omniglot-5way", "a1", "reptile", 0, 20000, "b2", "c3", {"torch": "2.13", "numpy": "2"}
        ),
    )


_OPSET = '<ir_version: 10, opset_import: ["" : 20]>'
_MEANS = f"""{_OPSET} encode (float[n,3,8,8] images) => (float[n,12,1,1] encoded) {{
    means = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(images)
    shape = Constant<value = int64[4] {{-1, 12, 1, 1}}>()
    encoded = Reshape(means, shape)
}}"""
_HEAD = f"""{_OPSET} predict (
    float[query_count,12,1,1] inputs, float[way,12] "head.weight", float[way] "head.bias"
) => (float[query_count,way] logits) {{
    features = Flatten<axis=1>(inputs)
    logits = Gemm<transB=1>(features, "head.weight", "head.bias")
}}"""


@pytest.fixture(scope="session")
def means_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose encoder averages colours in four cells, and whose head takes no step."""
    import onnx.parser

    from kshot.trainer.bundling.encoder_bundle import EncoderOrigin, PictureInput, encoder_manifest
    from kshot.trainer.bundling.encoder_file import EncoderFile

    encoder, template = (
        onnx.parser.parse_model(text).SerializeToString() for text in (_MEANS, _HEAD)
    )
    file = EncoderFile(encoder, (12, 1, 1))
    spec = PictureInput(8, (0.5,) * 3, (0.5,) * 3, "pad", "bilinear").spec()
    manifest = encoder_manifest("means", 1, spec, file, EncoderOrigin("means", "a test"))
    plain = replace(manifest, network=NetworkSpec("features", {"normalize": False, "scale": 1.0}))
    parameters = {
        "head.weight": np.zeros((5, 12), np.float32),
        "head.bias": np.zeros(5, np.float32),
    }
    weights = Weights(parameters, parameters, step=0)
    templates = {BatchNormMode.STORED: template}
    root = tmp_path_factory.mktemp("means")
    return write_bundle(root, plain, weights, templates, "# means\n", encoder=encoder)


_MEANS_AND_MAPS = f"""{_OPSET} encode (float[n,3,8,8] images)
    => (float[n,60,1,1] encoded, float[n,3,4,4] maps) {{
    maps = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(images)
    means = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(maps)
    flat_means = Flatten<axis=1>(means)
    flat_maps = Flatten<axis=1>(maps)
    joined = Concat<axis=1>(flat_means, flat_maps)
    shape = Constant<value = int64[4] {{-1, 60, 1, 1}}>()
    encoded = Reshape(joined, shape)
}}"""
TAIL = TailSpec(
    map_shape=(3, 4, 4),
    blocks=(TailBlock(2, 4, 1), TailBlock(2, 4, 1), TailBlock(2, 6, 2)),
    feature_count=8,
    learning_rate=0.01,
    likeness=0.5,
    slope=3.0,
)


@pytest.fixture(scope="session")
def tail_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle like `means_bundle`, whose encoder gives maps too, with a small tail behind them."""
    import onnx.parser
    import torch

    from kshot.learner import Tail, build_network
    from kshot.trainer.bundling.encoder_bundle import EncoderOrigin, PictureInput, encoder_manifest
    from kshot.trainer.bundling.encoder_file import EncoderFile
    from kshot.trainer.bundling.onnx_templates import build_tail_template, build_template

    encoder = onnx.parser.parse_model(_MEANS_AND_MAPS).SerializeToString()
    spec = PictureInput(8, (0.5,) * 3, (0.5,) * 3, "pad", "bilinear").spec()
    file, origin = EncoderFile(encoder, (60, 1, 1)), EncoderOrigin("means", "a test")
    manifest = encoder_manifest("tailed", 1, spec, file, origin)
    assert manifest.ridge is not None
    manifest = replace(
        manifest,
        network=NetworkSpec("features", {"normalize": False, "scale": 1.0, "first": 12}),
        ridge=replace(manifest.ridge, block_sizes=(12,)),
        scope=ScopePolicy(Scope.AUTO, tuple(Scope)),
        tail=TAIL,
    )
    tail, generator = Tail(TAIL), torch.Generator().manual_seed(0)
    arrays = {
        name: torch.randn(shape, generator=generator).mul(0.5).numpy()
        for name, shape in tail.shapes.items()
    }
    network = build_network(manifest.network, manifest.network_input_shape, 1e-3)
    parameters = {
        "head.weight": np.zeros((5, 12), np.float32),
        "head.bias": np.zeros(5, np.float32),
    }
    return write_bundle(
        tmp_path_factory.mktemp("tailed"),
        manifest,
        Weights(parameters, parameters, step=0),
        {BatchNormMode.STORED: build_template(network, BatchNormMode.STORED)},
        "# tailed\n",
        encoder=encoder,
        tail=TailFiles(arrays, build_tail_template(network, tail)),
    )
