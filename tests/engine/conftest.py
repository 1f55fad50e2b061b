import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
from kshot.internal.v1 import engine_pb2, engine_pb2_grpc
from kshot.learner import Conv4, initial_parameters

SIDE = 12


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Bundle:
    """A small untrained bundle; the engine reads no template, so theirs are only names."""
    steps = (Grayscale(), Resize(SIDE, SIDE, "nearest"), Rescale(1 / 255))
    small = replace(
        manifest,
        name="small",
        network=NetworkSpec("conv4", {"filters": 8}),
        input=InputSpec((1, SIDE, SIDE), steps),
        limits=replace(manifest.limits, max_step_count=20_000),
    )
    drawn = initial_parameters(
        Conv4((1, SIDE, SIDE), filters=8), 5, torch.Generator().manual_seed(1)
    )
    parameters = {name: value.numpy() for name, value in drawn.items()}
    second_moment = {name: np.full_like(value, 1e-4) for name, value in parameters.items()}
    return write_bundle(
        tmp_path_factory.mktemp("bundles"),
        small,
        Weights(parameters, second_moment, 1000),
        dict.fromkeys(BatchNormMode, b"not read by the engine"),
        "# small\n",
    )


@contextmanager
def running_engine(bundle: Bundle, socket: Path, device: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a ready engine, ended as the front ends it: its standard input closes."""
    command = [sys.executable, "-m", "kshot.engine", "--socket", str(socket)]
    with subprocess.Popen(
        [*command, "--bundle", str(bundle.path), "--device", device],
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
                process.wait(timeout=30)
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
    with running_engine(bundle, socket, "cpu") as process:
        yield process


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[engine_pb2_grpc.EngineServiceStub]:
    """A stub of an engine on the CPU that a module's tests share."""
    with tempfile.TemporaryDirectory(prefix="kshot-") as folder:
        socket = Path(folder) / "engine.sock"
        with (
            running_engine(bundle, socket, "cpu"),
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
