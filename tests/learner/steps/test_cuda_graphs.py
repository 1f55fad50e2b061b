import pytest
import torch

from kshot.learner import graphed


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_a_gpu_a_step_is_its_own_graph(device: str) -> None:
    def step(*arguments: torch.Tensor) -> torch.Tensor:
        return arguments[0]

    assert graphed(step, torch.device(device)) is step
