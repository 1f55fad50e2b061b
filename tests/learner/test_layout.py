import pytest
import torch

from kshot.learner import ParameterLayout

LAYOUT = ParameterLayout({"body": (2, 3), "head.weight": (2, 4), "head.bias": (2,)})


def test_split_undoes_join() -> None:
    parameters = {name: torch.randn(shape) for name, shape in LAYOUT.shapes.items()}

    vector = LAYOUT.join(parameters)

    assert vector.shape == (LAYOUT.size,) == (16,)
    assert LAYOUT.body_size == 6
    for name, value in LAYOUT.split(vector.unsqueeze(0)).items():
        assert torch.equal(value[0], parameters[name])


def test_join_names_what_does_not_fit() -> None:
    parameters = {name: torch.zeros(shape) for name, shape in LAYOUT.shapes.items()}

    with pytest.raises(ValueError, match=r"missing or unknown names body"):
        LAYOUT.join({name: value for name, value in parameters.items() if name != "body"})
    with pytest.raises(ValueError, match=r"head.bias: expected shape \(2,\), got \(3,\)"):
        LAYOUT.join(parameters | {"head.bias": torch.zeros(3)})
