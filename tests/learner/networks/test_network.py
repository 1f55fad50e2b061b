"""What holds of every built-in network."""

from collections.abc import Callable, Mapping

import pytest
import torch

from kshot.bundle import NetworkSpec, Preconditioner
from kshot.learner import (
    Conv4,
    Features,
    Mlp,
    Network,
    Resnet12,
    StepRule,
    build_inner_step,
    build_network,
    initial_parameters,
    layout_of,
    logits_of,
    loss_gradients,
    maml_gradient,
    task_losses,
)

NETWORKS: Mapping[str, Network] = {
    "conv4": Conv4((2, 9, 6), filters=2),
    "conv4 max_pool": Conv4((2, 9, 6), filters=2, downsampling="max_pool"),
    "conv4 max_pool columns": Conv4(
        (2, 9, 6), filters=2, downsampling="max_pool", column_blocks=(1, 2, 3, 4)
    ),
    "features": Features((6, 1, 1), scale=3.0),
    "features with a learned scale": Features((6, 1, 1), learned_scale=True),
    "mlp": Mlp((2, 1, 3), hidden_units=5),
    "mlp tanh without batch norm": Mlp(
        (2, 1, 3), hidden_units=5, activation="tanh", batch_norm=False
    ),
    "resnet12": Resnet12((2, 9, 6), filters=1),
}
MakeTasks = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())


@pytest.fixture
def make_tasks() -> MakeTasks:
    """Return a function from a network to vectors ``(T, P)``, inputs and targets, in float64."""

    def make(
        network: Network, task_count: int = 3, way: int = 3
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        layout = layout_of(network, way)
        vectors = [
            layout.join(initial_parameters(network, way, generator)) for _ in range(task_count)
        ]
        shape = task_count, 2 * way
        noise = torch.randn(task_count, layout.size, generator=generator, dtype=torch.float64)
        inputs = torch.randn(*shape, *network.input_shape, generator=generator, dtype=torch.float64)
        return (
            torch.stack(vectors) + 0.1 * noise,
            inputs,
            torch.arange(2 * way).repeat(task_count, 1) % way,
        )

    return make


@every_network
def test_stacked_tasks_equal_separate_ones(network: Network, make_tasks: MakeTasks) -> None:
    """Losses and gradients of three tasks with parameters of their own, in float64."""
    vectors, inputs, targets = make_tasks(network)
    layout, mask = layout_of(network, 3), torch.ones(3, 3, dtype=torch.bool)

    gradients, losses = loss_gradients(network, layout, vectors, inputs, targets, mask)

    for task in range(3):
        one = slice(task, task + 1)
        gradient, loss = loss_gradients(
            network, layout, vectors[one], inputs[one], targets[one], mask[one]
        )
        torch.testing.assert_close(gradients[one], gradient, rtol=0, atol=1e-12)
        torch.testing.assert_close(losses[one], loss, rtol=0, atol=1e-12)


@every_network
def test_shared_parameters_serve_every_task(network: Network, make_tasks: MakeTasks) -> None:
    vectors, inputs, _ = make_tasks(network)
    split = layout_of(network, 3).split

    shared, statistics = logits_of(network, split(vectors[:1]), inputs)

    own, own_statistics = logits_of(network, split(vectors[:1].expand(3, -1)), inputs)
    torch.testing.assert_close(shared, own, rtol=0, atol=1e-12)
    assert shared.shape == (3, 6, 3)
    shapes = {name: tuple(value.shape) for name, value in statistics.items()}
    assert shapes == {name: (3, *shape) for name, shape in network.statistics_shapes.items()}
    for name, value in own_statistics.items():
        torch.testing.assert_close(statistics[name], value, rtol=0, atol=1e-12)


@every_network
def test_the_gradient_is_that_of_finite_differences(
    network: Network, make_tasks: MakeTasks
) -> None:
    """Of two tasks' losses, once and, as second-order meta-learning wants it, twice."""
    vectors, inputs, targets = make_tasks(network, task_count=2)
    split, mask = layout_of(network, 3).split, torch.ones(2, 3, dtype=torch.bool)

    def losses(vectors: torch.Tensor) -> torch.Tensor:
        logits, _ = logits_of(network, split(vectors), inputs)
        return task_losses(logits, targets, mask)

    vectors.requires_grad_()
    assert torch.autograd.gradcheck(losses, (vectors,), fast_mode=True, atol=1e-6, rtol=1e-4)
    if isinstance(network, Conv4) and network.column_blocks:
        return  # a form for inner steps, whose gradient is written out and goes back once
    assert torch.autograd.gradgradcheck(losses, (vectors,), fast_mode=True, atol=1e-5, rtol=1e-3)


@every_network
def test_frozen_statistics_of_a_batch_answer_it_as_transduction_does(
    network: Network, make_tasks: MakeTasks
) -> None:
    """One task's statistics fold into its layers, several tasks' do not: both give the same."""
    vectors, inputs, _ = make_tasks(network)
    split = layout_of(network, 3).split
    for tasks in (slice(0, 1), slice(0, 3)):
        parameters = split(vectors[tasks])
        wanted, statistics = logits_of(network, parameters, inputs[tasks])

        frozen, used = logits_of(network, parameters, inputs[tasks], statistics)

        torch.testing.assert_close(frozen, wanted, rtol=0, atol=1e-10)
        assert used is statistics
        some, _ = logits_of(network, parameters, inputs[tasks, 2:4], statistics)
        torch.testing.assert_close(some, wanted[:, 2:4], rtol=0, atol=1e-10)


@every_network
def test_inner_steps_learn_the_batch(network: Network, make_tasks: MakeTasks) -> None:
    vectors, inputs, targets = make_tasks(network)
    rule = StepRule(Preconditioner.FRESH, 0.01)
    step = build_inner_step(network, layout_of(network, 3), rule)
    scale, mask = torch.zeros_like(vectors), torch.ones(3, 3, dtype=torch.bool)

    losses = [
        step(vectors, scale, inputs, targets, mask, torch.full((3,), size, dtype=torch.float64))
        for size in rule.step_sizes(0, 40)
    ]

    assert (losses[-1] < 0.7 * losses[0]).all()


@pytest.mark.parametrize(
    "network", [network for network in NETWORKS.values() if network.statistics_shapes]
)
def test_before_batch_norm_weights_start_by_glorots_rule(network: Network) -> None:
    parameters = initial_parameters(network, 3, torch.Generator().manual_seed(0))

    again = initial_parameters(network, 3, torch.Generator().manual_seed(0))
    assert list(parameters) == list(layout_of(network, 3).shapes)
    for name, value in parameters.items():
        assert value.equal(again[name])
        if not name.endswith("weight"):
            assert value.equal(torch.full_like(value, float(name.endswith("scale"))))
            continue
        fans = (value.shape[0] + value.shape[1]) * value[0, 0].numel()
        assert 0 < value.abs().max() <= (6 / fans) ** 0.5


@pytest.mark.parametrize("network", [NETWORKS["conv4 max_pool"], NETWORKS["mlp"]])
def test_second_order_gradients_go_through(network: Network, make_tasks: MakeTasks) -> None:
    """By finite differences of the loss after one step, along the gradient itself."""
    vectors, inputs, targets = make_tasks(network, task_count=2)
    layout, rule = layout_of(network, 3), StepRule(Preconditioner.SGD, 0.1)
    steps = [(inputs[:, :3], targets[:, :3])]
    last = inputs[:, 3:], targets[:, 3:]

    def outcome(vector: torch.Tensor) -> tuple[torch.Tensor, float]:
        gradient, losses = maml_gradient(network, layout, vector, steps, last, rule)
        return gradient, losses.mean().item()

    gradient, _ = outcome(vectors[0])

    way = 1e-6 * gradient / gradient.norm()
    slope = (outcome(vectors[0] + way)[1] - outcome(vectors[0] - way)[1]) / 2e-6
    assert slope == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_a_head_of_one_row_is_a_regression() -> None:
    """Sine waves: one number in, one out, hidden layers of 64 and 64."""
    network = build_network(
        NetworkSpec("mlp", {"activation": "tanh", "batch_norm": False}), (1, 1, 1), 1e-3
    )
    parameters = initial_parameters(network, 1, torch.Generator().manual_seed(0))
    inputs = torch.linspace(-5, 5, 50).reshape(1, 50, 1, 1, 1)

    outputs, statistics = logits_of(
        network, {name: value[None] for name, value in parameters.items()}, inputs
    )

    layout = layout_of(network, 1)
    assert layout.size == 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert (outputs.shape, dict(statistics)) == ((1, 50, 1), {})
    hidden = inputs.reshape(50, 1)
    for layer in ("layer1", "layer2"):
        weight, bias = (parameters[f"{layer}.linear.{name}"] for name in ("weight", "bias"))
        hidden = torch.tanh(torch.nn.functional.linear(hidden, weight, bias))
    expected = torch.nn.functional.linear(hidden, parameters["head.weight"])
    torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (
            NetworkSpec("conv5", {}),
            "'conv5' is unknown; known networks: conv4, features, mlp, resnet12",
        ),
        (NetworkSpec("conv4", {"depth": 3}), "'conv4' does not accept these arguments: .*'depth'"),
        (NetworkSpec("mlp", {"filters": 3}), "'mlp' does not accept these arguments: .*'filters'"),
    ],
)
def test_a_network_that_does_not_exist_is_refused(spec: NetworkSpec, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_network(spec, (1, 28, 28), 1e-3)
