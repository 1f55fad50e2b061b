from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import Preconditioner
from kshot.learner import (
    Conv4,
    Objective,
    StepRule,
    initial_parameters,
    layout_of,
    loss_gradients,
    maml_gradient,
)

WAY, TASKS, SIZE, RATE = 3, 2, 6, 0.3
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Curved:
    """One hidden layer of two units with tanh: losses with derivatives of every order."""

    input_shape: tuple[int, int, int] = (1, 1, 2)
    feature_count: int = 2

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"hidden": (2, 2)}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"hidden": torch.randn(2, 2, generator=generator)}

    def features(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, _statistics: object
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        return torch.tanh(inputs.flatten(2) @ parameters["hidden"].transpose(1, 2)), {}


def batches_of(count: int, way: int) -> list[Batch]:
    """Draw mini-batches of both tasks; with a way of 1 the targets are values."""
    generator = torch.Generator().manual_seed(5)
    shape = TASKS, SIZE, 1, 1, 2
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]
    if way == 1:
        draw = (torch.randn(TASKS, SIZE, generator=generator).double() for _ in inputs)
    else:
        draw = (torch.randint(way, (TASKS, SIZE), generator=generator) for _ in inputs)
    return list(zip(inputs, draw, strict=True))


def start_of(way: int) -> Tensor:
    layout = layout_of(Curved(), way)
    return torch.randn(layout.size, generator=torch.Generator().manual_seed(6)).double()


def loss(vector: Tensor, batch: Batch, task: int, way: int) -> Tensor:
    """Compute one task's loss on a batch, written out."""
    hidden, weight, bias = vector[:4], vector[4 : 4 + 2 * way], vector[4 + 2 * way :]
    units = torch.tanh(batch[0][task].flatten(1) @ hidden.reshape(2, 2).T)
    outputs = units @ weight.reshape(way, 2).T + bias
    if way == 1:
        return (outputs[:, 0] - batch[1][task]).square().mean()
    return functional.cross_entropy(outputs, batch[1][task])


@pytest.mark.parametrize("weight_decay_rate", [1.0, 0.9])
@pytest.mark.parametrize("step_count", [1, 2, 4])
@pytest.mark.parametrize("way", [WAY, 1])
def test_mamls_gradient_is_the_product_of_the_steps_jacobians(
    way: int, step_count: int, weight_decay_rate: float
) -> None:
    """``(I - a H_1) ... (I - a H_{k-1}) g_k`` with each Hessian where its step was; 1e-12.

    A step that decays, ``U(phi) = r phi - a L'(r phi)``, has the Jacobian ``r (I - a H(r phi))``.
    """
    batches, start = batches_of(step_count, way), start_of(way)
    rule = StepRule(Preconditioner.SGD, RATE, weight_decay_rate=weight_decay_rate)
    objective = Objective.SQUARED_ERROR if way == 1 else Objective.CROSS_ENTROPY

    gradient, losses = maml_gradient(
        Curved(), layout_of(Curved(), way), start, batches[:-1], batches[-1], rule, objective
    )

    wanted, last_losses = [], []
    for task in range(TASKS):
        vector, jacobians = start, []
        for batch in batches[:-1]:
            decayed = weight_decay_rate * vector
            hessian = torch.func.jacrev(torch.func.grad(loss))(decayed, batch, task, way)
            jacobians.append(weight_decay_rate * (torch.eye(len(start)).double() - RATE * hessian))
            vector = decayed - RATE * torch.func.grad(loss)(decayed, batch, task, way)
        outer = torch.func.grad(loss)(vector, batches[-1], task, way)
        for jacobian in reversed(jacobians):
            outer = jacobian @ outer
        wanted.append(outer)
        last_losses.append(loss(vector, batches[-1], task, way))
    torch.testing.assert_close(gradient, torch.stack(wanted).mean(dim=0), atol=1e-12, rtol=0)
    torch.testing.assert_close(losses, torch.stack(last_losses), atol=1e-12, rtol=0)


def test_without_steps_before_it_is_the_gradient_of_the_first_order() -> None:
    """``k = 1``, where MAML, FOMAML and joint training are one; float64, 1e-14."""
    (batch,), start = batches_of(1, WAY), start_of(WAY)
    layout = layout_of(Curved(), WAY)
    rule = StepRule(Preconditioner.SGD, RATE)

    gradient, losses = maml_gradient(Curved(), layout, start, [], batch, rule)

    mask = torch.ones(TASKS, WAY, dtype=torch.bool)
    vectors = start.expand(TASKS, -1)
    wanted, wanted_losses = loss_gradients(Curved(), layout, vectors, *batch, mask)
    torch.testing.assert_close(gradient, wanted.mean(dim=0), atol=1e-14, rtol=0)
    torch.testing.assert_close(losses, wanted_losses, atol=1e-14, rtol=0)


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
def test_it_goes_through_convolutions_and_batch_norm(downsampling: str) -> None:
    """Along three directions, central differences of the loss after two steps: 1e-6 relative.

    FOMAML's gradient is another one, by more than 5 % of it.
    """
    network = Conv4((1, 8, 8), filters=3, downsampling=downsampling)
    layout = layout_of(network, WAY)
    generator = torch.Generator().manual_seed(7)
    start = layout.join(initial_parameters(network, WAY, generator)).double()
    images = torch.rand(3, TASKS, SIZE, 1, 8, 8, generator=generator, dtype=torch.float64)
    classes = torch.arange(SIZE).remainder(WAY).expand(TASKS, -1)
    steps, last = [(images[0], classes), (images[1], classes)], (images[2], classes)
    rule = StepRule(Preconditioner.SGD, 0.1)
    mask = torch.ones(TASKS, WAY, dtype=torch.bool)

    def adapted(vector: Tensor) -> Tensor:
        vectors = vector.repeat(TASKS, 1)
        for batch in steps:
            vectors = vectors - 0.1 * loss_gradients(network, layout, vectors, *batch, mask)[0]
        return vectors

    def loss_after(vector: Tensor) -> Tensor:
        return loss_gradients(network, layout, adapted(vector), *last, mask)[1].mean()

    gradient, _ = maml_gradient(network, layout, start, steps, last, rule)

    first_order = loss_gradients(network, layout, adapted(start), *last, mask)[0].mean(dim=0)
    assert (gradient - first_order).norm() > 0.05 * gradient.norm()
    for _ in range(3):
        direction = torch.randn(layout.size, generator=generator, dtype=torch.float64)
        shift = 1e-6 * direction
        slope = (loss_after(start + shift) - loss_after(start - shift)) / 2e-6
        torch.testing.assert_close(gradient @ direction, slope, rtol=1e-6, atol=1e-8)
