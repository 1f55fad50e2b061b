from __future__ import annotations

import numpy as np
import pytest

from kshot.bundle import BatchNormMode, InputSpec, Manifest, Weights


@pytest.fixture
def gray_spec(manifest: Manifest) -> InputSpec:
    return manifest.input


@pytest.fixture
def weights() -> Weights:
    parameters = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return Weights(parameters, {"head.weight": np.ones((2, 3), np.float32)}, step=7)


@pytest.fixture
def templates() -> dict[BatchNormMode, bytes]:
    return {mode: f"template {mode}".encode() for mode in BatchNormMode}
