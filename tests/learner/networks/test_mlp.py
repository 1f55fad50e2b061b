import pytest
import torch
from torch import nn

from kshot.bundle import NetworkSpec
from kshot.learner import Mlp, build_network, initial_parameters, layout_of


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("activation", "module"), [("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_it_is_the_textbooks_perceptron(
    batch_norm: bool, activation: str, module: type[nn.Module]
) -> None:
    """Layer by layer as torch's modules compute it, in float64."""
    spec = NetworkSpec(
        "mlp",
        {
            "hidden_units": 7,
            "hidden_layers": 3,
            "activation": activation,
            "batch_norm": batch_norm,
        },
    )
    network = build_network(spec, (2, 3, 2), 1e-3)
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in initial_parameters(network, 2, generator).items()
    }
    inputs = torch.randn(5, 2, 3, 2, generator=generator, dtype=torch.float64)
    stacked = {name: value[None] for name, value in parameters.items()}

    features, _ = network.features(stacked, inputs[None], None)

    layers: list[nn.Module] = [nn.Flatten()]
    for number in (1, 2, 3):
        layers.append(nn.Linear(12 if number == 1 else 7, 7, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(7, eps=1e-3, track_running_stats=False))
        layers.append(module())
    plain = nn.Sequential(*layers).double()
    values = [value for name, value in parameters.items() if not name.startswith("head.")]
    with torch.no_grad():
        for parameter, value in zip(plain.parameters(), values, strict=True):
            parameter.copy_(value)
    torch.testing.assert_close(features[0], plain(inputs), rtol=0, atol=1e-12)


def test_batch_norm_takes_the_place_of_biases() -> None:
    plain = Mlp((1, 28, 28), hidden_units=32, hidden_layers=1, batch_norm=False)
    normalized = Mlp((1, 28, 28), hidden_units=32, hidden_layers=1)

    assert layout_of(plain, 5).size == 784 * 32 + 32 + 32 * 5 + 5
    assert layout_of(normalized, 5).size == 784 * 32 + 2 * 32 + 32 * 5 + 5
    assert list(plain.body_shapes) == ["layer1.linear.weight", "layer1.linear.bias"]
    assert not plain.statistics_shapes
    assert normalized.statistics_shapes == {
        "layer1.batch_norm.mean": (32,),
        "layer1.batch_norm.variance": (32,),
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"hidden_units": 0}, "mlp hidden_units: expected an integer of at least 1, got 0"),
        ({"hidden_layers": 1.5}, "mlp hidden_layers: expected an integer of at least 1, got 1.5"),
        ({"activation": "gelu"}, "mlp activation: expected relu or tanh, got 'gelu'"),
        ({"batch_norm": 1}, "mlp batch_norm: expected true or false, got 1"),
    ],
)
def test_arguments_without_sense_are_refused(
    arguments: dict[str, int | float | str | bool], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_network(NetworkSpec("mlp", arguments), (1, 1, 1), 1e-3)


def test_without_batch_norm_biases_start_spread_out() -> None:
    """Weights and biases are uniform within one over the root of the layer's inputs."""
    network = Mlp((1, 1, 1), hidden_units=64, hidden_layers=2, batch_norm=False)

    body = network.initialize_body(torch.Generator().manual_seed(0))

    bounds = {"layer1": 1.0, "layer2": 1 / 8}
    for name, value in body.items():
        bound = bounds[name.split(".")[0]]
        assert 0.9 * bound < float(value.abs().max()) <= bound
