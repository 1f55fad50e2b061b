"""The interface of networks, and networks by name."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from kshot.bundle import NetworkSpec
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.conv4 import Conv4
from kshot.learner.networks.features import Features
from kshot.learner.networks.initial_weights import glorot_uniform
from kshot.learner.networks.mlp import Mlp
from kshot.learner.networks.plugins import load_plugin, plugin_names
from kshot.learner.networks.resnet12 import Resnet12

Parameters = Mapping[str, Tensor]  # {name: (T, *shape)}, T = 1 if all tasks share them
Statistics = Mapping[str, Tensor]  # {name: (T, channels)}, mean and biased variance of each layer


class Network(Protocol):
    """A pure function from parameters and a batch to features; the linear head is the learner's.

    Everything carries a leading task axis T. Parameters with T = 1 serve every task of the inputs.
    """

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an example."""

    @property
    def feature_count(self) -> int:
        """Length of the feature vector that the head sees."""

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name."""

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the body's starting parameters `{name: shape}`."""

    def features(
        self, parameters: Parameters, inputs: Tensor, statistics: Statistics | None
    ) -> tuple[Tensor, Statistics]:
        """Map `(T, n, channels, height, width)` to `(T, n, feature_count)`.

        Normalizes with the statistics given, or with those of each task's n inputs; returns the
        statistics used.
        """


_MEMBERS = [name for name in vars(Network) if not name.startswith("_")]


def layout_of(network: Network, way: int) -> ParameterLayout:
    """Lay out the network's parameters with a head of `way` rows."""
    return ParameterLayout(
        {
            **network.body_shapes,
            "head.weight": (way, network.feature_count),
            "head.bias": (way,),
        }
    )


def initial_parameters(network: Network, way: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a network's parameters before meta-training; the head's bias starts at zero."""
    return {
        **network.initialize_body(generator),
        "head.weight": glorot_uniform((way, network.feature_count), generator),
        "head.bias": torch.zeros(way),
    }


def logits_of(
    network: Network, parameters: Parameters, inputs: Tensor, statistics: Statistics | None = None
) -> tuple[Tensor, Statistics]:
    """Map `(T, n, channels, height, width)` to logits `(T, n, way)` and the statistics used."""
    features, used = network.features(parameters, inputs, statistics)
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    return features @ weight.transpose(1, 2) + bias.unsqueeze(1), used


NETWORKS: Mapping[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "features": Features,
    "mlp": Mlp,
    "resnet12": Resnet12,
}


def build_network(spec: NetworkSpec, input_shape: tuple[int, int, int], epsilon: float) -> Network:
    """Build the network that a manifest or a recipe names; epsilon is batch norm's.

    A built-in one, or else one that an installed distribution enters in the group
    `kshot.networks`: a function of `input_shape`, `epsilon` and the arguments, by keyword.
    Raises `ValueError` when the name is unknown, the arguments do not fit it, or a third party's
    function fails.
    """
    factory = NETWORKS.get(spec.name) or load_plugin(spec.name)
    if factory is None:
        known = ", ".join(sorted({*NETWORKS, *plugin_names()}))
        raise ValueError(f"network {spec.name!r} is unknown; known networks: {known}")
    try:
        network: Network = factory(input_shape=input_shape, epsilon=epsilon, **spec.arguments)
    except ValueError:
        raise
    except TypeError as error:
        raise ValueError(
            f"network {spec.name!r} does not accept these arguments: {error}"
        ) from error
    except Exception as error:  # a third party's function may raise anything
        raise ValueError(
            f"network {spec.name!r} cannot be built: {type(error).__name__}: {error}"
        ) from error
    missing = [name for name in _MEMBERS if not hasattr(network, name)]
    if missing:
        raise ValueError(
            f"network {spec.name!r}: required members are missing: {', '.join(missing)}; "
            f"got {network!r}"
        )
    return network
