"""The multilayer perceptron, for vectors and for images as vectors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from kshot.learner.networks.batch_norm import normalize
from kshot.learner.networks.initial_weights import glorot_uniform

Activation = Literal["relu", "tanh"]


@dataclass(frozen=True)
class Mlp:
    """Hidden layers of equal width over the flattened input.

    A layer has batch norm before its activation, or else a bias, which batch norm would cancel.
    Without batch norm there are no statistics, and the batch-norm modes are one and the same.
    """

    input_shape: tuple[int, int, int]
    hidden_units: int = 64
    hidden_layers: int = 2
    activation: Activation = "relu"
    batch_norm: bool = True
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("hidden_units", "hidden_layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"mlp {name}: expected an integer of at least 1, got {value}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"mlp activation: expected relu or tanh, got {self.activation!r}")
        if type(self.batch_norm) is not bool:
            raise ValueError(f"mlp batch_norm: expected true or false, got {self.batch_norm!r}")
        if min(self.input_shape) < 1:
            raise ValueError(f"mlp input_shape: expected positive sides, got {self.input_shape}")

    @property
    def feature_count(self) -> int:
        """Length of the feature vector: the last hidden layer's units."""
        return self.hidden_units

    @cached_property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = math.prod(self.input_shape)
        vectors = ("batch_norm.scale", "batch_norm.shift") if self.batch_norm else ("linear.bias",)
        for layer in self._layers():
            shapes[f"{layer}.linear.weight"] = (self.hidden_units, inputs)
            shapes |= {f"{layer}.{name}": (self.hidden_units,) for name in vectors}
            inputs = self.hidden_units
        return shapes

    @cached_property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name; none without batch norm."""
        if not self.batch_norm:
            return {}
        return {
            f"{layer}.batch_norm.{moment}": (self.hidden_units,)
            for layer in self._layers()
            for moment in ("mean", "variance")
        }

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights by Glorot's uniform rule if batch norm, at first the identity, follows.

        Without it, weights and biases come from U(-a, a), a = 1 / sqrt(fan_in): with biases at zero
        every unit over a single input is an odd function of it, and waves are not learned.
        """
        body = {}
        for name, shape in self.body_shapes.items():
            if not self.batch_norm:
                layer = name.removesuffix(".weight").removesuffix(".bias")
                bound = 1 / math.sqrt(self.body_shapes[f"{layer}.weight"][1])
                body[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            elif name.endswith("weight"):
                body[name] = glorot_uniform(shape, generator)
            else:
                body[name] = torch.ones(shape) if name.endswith("scale") else torch.zeros(shape)
        return body

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map `(T, n, channels, height, width)` to `(T, n, hidden_units)`."""
        activate = torch.relu if self.activation == "relu" else torch.tanh
        used: dict[str, Tensor] = {}
        hidden = inputs.flatten(start_dim=2)
        for layer in self._layers():
            hidden = hidden @ parameters[f"{layer}.linear.weight"].transpose(1, 2)
            if self.batch_norm:
                moments = (f"{layer}.batch_norm.mean", f"{layer}.batch_norm.variance")
                given = None
                if statistics is not None:
                    given = (statistics[moments[0]], statistics[moments[1]])
                hidden, values = normalize(
                    hidden,
                    parameters[f"{layer}.batch_norm.scale"],
                    parameters[f"{layer}.batch_norm.shift"],
                    given,
                    self.epsilon,
                )
                used |= dict(zip(moments, values, strict=True))
            else:
                hidden = hidden + parameters[f"{layer}.linear.bias"].unsqueeze(1)
            hidden = activate(hidden)
        return hidden, used if statistics is None else statistics

    def _layers(self) -> Iterator[str]:
        return (f"layer{number}" for number in range(1, self.hidden_layers + 1))
