"""A network as another package brings it: it knows torch, and what a network is to kshot."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """Filters of the whole input, less their mean over the batch, through tanh."""

    input_shape: tuple[int, int, int]
    epsilon: float
    features_wanted: int

    @property
    def feature_count(self) -> int:
        return self.features_wanted

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        channels, height, width = self.input_shape
        return {"filter": (channels * height * width, self.features_wanted)}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"mean": (self.features_wanted,)}

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: torch.randn(shape, generator=generator)
            for name, shape in self.body_shapes.items()
        }

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        filtered = inputs.flatten(2) @ parameters["filter"]
        if statistics is None:
            statistics = {"mean": filtered.mean(dim=1)}
        return torch.tanh(filtered - statistics["mean"].unsqueeze(1)), statistics
