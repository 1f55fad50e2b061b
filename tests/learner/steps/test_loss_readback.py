import pytest
import torch

from kshot.learner.steps.loss_readback import LossReader


def test_on_a_cpu_losses_are_read_at_once() -> None:
    reader = LossReader(torch.device("cpu"))

    assert reader.read([7, 3], torch.tensor([0.5, 0.25])) == {7: 0.5, 3: 0.25}
    assert reader.read([3], torch.tensor([0.125])) == {3: 0.125}


def test_losses_without_owners_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        LossReader(torch.device("cpu")).read([7], torch.tensor([0.5, 0.25]))
