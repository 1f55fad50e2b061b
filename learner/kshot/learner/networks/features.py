"""The network of a linear classifier: its inputs are features already."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST_SQUARE = 1e-12  # of a vector's length: a vector of zeros stays one


@dataclass(frozen=True)
class Features:
    """Passes vectors `(F, 1, 1)` on, at most scaled and normalized; the head does the rest.

    With `normalize` a vector x becomes `scale * x / |x|`, so that a head of class means compares
    directions (cosines). With `learned_scale` each feature is first multiplied by a parameter that
    starts at 1; otherwise there is no body, and scopes `all` and `head` adapt the same parameters.
    With `first` only so many numbers are used: maps for a tail may follow.
    """

    input_shape: tuple[int, int, int]
    normalize: bool = True
    scale: float = 1.0
    learned_scale: bool = False
    first: int = 0
    epsilon: float = 1e-3
    """Batch norm's, which this network has not."""

    def __post_init__(self) -> None:
        if self.input_shape[0] < 1 or tuple(self.input_shape[1:]) != (1, 1):
            raise ValueError(
                f"features input_shape: expected vectors (F, 1, 1), got {self.input_shape}"
            )
        for name in ("normalize", "learned_scale"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(
                    f"features {name}: expected true or false, got {getattr(self, name)!r}"
                )
        if type(self.scale) not in (int, float) or not 0 < self.scale < float("inf"):
            raise ValueError(f"features scale: expected a number above 0, got {self.scale!r}")

        if type(self.first) is not int or not 0 <= self.first <= self.input_shape[0]:
            raise ValueError(
                f"features first: expected a number up to {self.input_shape[0]}, the input's "
                f"length, or 0 for all, got {self.first!r}"
            )

    @property
    def feature_count(self) -> int:
        """Length of the feature vector: the input's, or the part of it that is used."""
        return self.first or self.input_shape[0]

    @cached_property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters before the head, by name."""
        return {"features.scale": (self.feature_count,)} if self.learned_scale else {}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics: none."""
        return {}

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002 -- nothing is drawn
        """Start every feature's scale at 1."""
        return {name: torch.ones(shape) for name, shape in self.body_shapes.items()}

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map `(T, n, F, 1, 1)` to `(T, n, feature_count)`."""
        vectors = inputs.flatten(start_dim=2)
        if self.first:
            vectors = vectors[:, :, : self.first]
        if self.learned_scale:
            vectors = vectors * parameters["features.scale"].unsqueeze(1)
        if self.normalize:
            squares = (vectors * vectors).sum(dim=2, keepdim=True)
            # Not by adding it: the ONNX exporter drops so small a number.
            vectors = vectors * torch.rsqrt(squares.clamp_min(LEAST_SQUARE))
        if self.scale != 1:
            vectors = vectors * self.scale
        return vectors, {} if statistics is None else statistics
