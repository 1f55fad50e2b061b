from __future__ import annotations

import numpy as np
import pytest

from kshot.bundle import (
    BatchNorm,
    BatchNormMode,
    BatchSizeRule,
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
    Training,
    Weights,
)


@pytest.fixture
def gray_spec() -> InputSpec:
    steps = (Grayscale(), Resize(28, 28, "nearest"), Rescale(1 / 255))
    return InputSpec(shape=(1, 28, 28), preprocessing=steps)


@pytest.fixture
def manifest(gray_spec: InputSpec) -> Manifest:
    return Manifest(
        name="tiny",
        version=1,
        network=NetworkSpec("conv4", {"filters": 64, "max_pool": False}),
        input=gray_spec,
        inner_loop=InnerLoop(
            learning_rate=0.001,
            step_count=10,
            batch_size_by_way=(BatchSizeRule(5, 5), BatchSizeRule(20, 10)),
            batch_sizes=(5, 10),
            way_buckets=(5, 20),
            preconditioner=Preconditioner.CARRIED,
            preconditioners=tuple(Preconditioner),
        ),
        batch_norm=BatchNorm(BatchNormMode.SUPPORT, tuple(BatchNormMode)),
        training=Training(way=5, shot=1),
        head=HeadPolicy(Head.TRAINED, tuple(Head)),
        scope=ScopePolicy(Scope.ALL, tuple(Scope)),
        limits=Limits(20, 400, 1000, 100, 0.1),
        provenance=Provenance(
            "omniglot-5way", "a1", "reptile", 0, 20000, "b2", "c3", {"torch": "2.13", "numpy": "2"}
        ),
    )


@pytest.fixture
def weights() -> Weights:
    parameters = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return Weights(parameters, {"head.weight": np.ones((2, 3), np.float32)}, step=7)


@pytest.fixture
def templates() -> dict[BatchNormMode, bytes]:
    return {mode: f"template {mode}".encode() for mode in BatchNormMode}
