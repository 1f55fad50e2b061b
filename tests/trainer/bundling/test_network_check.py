"""Networks of other packages are checked before a training, not after it."""

from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kshot.bundle import COMPUTED_MODES, BatchNormMode
from kshot.learner import Conv4
from kshot.trainer.bundling.network_check import check_network
from kshot.trainer.errors import TrainingError

EXAMPLE = Path(__file__).parents[3] / "examples" / "network.py"


def load_example() -> Any:  # noqa: ANN401 -- a module that no package has
    spec = spec_from_file_location("example_network", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    import sys

    sys.modules["example_network"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Faulty(Conv4):
    """Conv4 with one fault."""

    fault: str = ""

    def features(
        self,
        parameters: Any,  # noqa: ANN401 -- the tests'
        inputs: Tensor,
        statistics: Any,  # noqa: ANN401 -- the tests'
    ) -> Any:  # noqa: ANN401 -- the tests'
        if self.fault == "raises" and inputs.shape[0] > 1:
            raise IndexError("no second task")
        if self.fault == "first task's":
            parameters = {name: value[:1] for name, value in parameters.items()}
        features, used = super().features(parameters, inputs, statistics)
        if self.fault == "shape":
            features = features[:, :, :3]
        if self.fault == "statistics":
            used = {}
        if self.fault == "branch" and float(features.sum()) > 0:  # no graph has this
            features = features * 1
        return features, used


def test_the_example_passes() -> None:
    network = load_example().SmallResidual((3, 10, 8), 1e-3)

    check_network(network, "small", COMPUTED_MODES)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "features failed on random images: IndexError: no second task"),
        ("first task's", "expected tasks side by side: the numbers of one task alone, to 0.0001"),
        ("shape", r"expected features of shape \(2, 6, 8\), got \(2, 6, 3\)"),
        ("statistics", r"expected statistics of shapes \{'block1.*, got \{\}"),
        ("branch", "mode support cannot be exported to ONNX and run"),
    ],
)
def test_a_fault_has_its_sentence(fault: str, message: str) -> None:
    network = replace(Faulty((1, 8, 8), filters=8), fault=fault)

    with pytest.raises(TrainingError, match=f"network 'faulty': {message}"):
        check_network(network, "faulty", [BatchNormMode.SUPPORT])


def test_random_numbers_are_the_same_each_time() -> None:
    before = torch.random.get_rng_state()

    check_network(Conv4((1, 8, 8), filters=4), "conv4", [BatchNormMode.TRANSDUCTIVE])

    assert torch.equal(torch.random.get_rng_state(), before)
