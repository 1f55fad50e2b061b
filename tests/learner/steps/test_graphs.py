import pytest
import torch

from kshot.learner import graphed
from kshot.learner.steps.loss_reader import LossReader


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_a_gpu_a_step_is_its_own_graph(device: str) -> None:
    def step(*arguments: torch.Tensor) -> torch.Tensor:
        return arguments[0]

    assert graphed(step, torch.device(device)) is step


def test_on_a_cpu_losses_are_read_at_once() -> None:
    reader = LossReader(torch.device("cpu"))

    assert reader.read([7, 3], torch.tensor([0.5, 0.25])) == {7: 0.5, 3: 0.25}
    assert reader.read([3], torch.tensor([0.125])) == {3: 0.125}


def test_losses_without_owners_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        LossReader(torch.device("cpu")).read([7], torch.tensor([0.5, 0.25]))
