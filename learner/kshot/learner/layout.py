"""The layout of named parameters in a flat parameter vector."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ParameterLayout:
    """Order and shapes of a network's parameters; the head's come last, so the body is a prefix.

    The parameters of T tasks are one tensor `(T, P)`: an optimizer is then one elementwise pass,
    whatever the network.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each parameter, in order."""
        return tuple(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def size(self) -> int:
        """Number of elements of all parameters, P."""
        return sum(self.sizes)

    @cached_property
    def body_size(self) -> int:
        """Number of elements before the head's."""
        return self.size - sum(
            size
            for name, size in zip(self.shapes, self.sizes, strict=True)
            if name.startswith("head.")
        )

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """View `(T, P)` vectors as `{name: (T, *shape)}`."""
        task_count = vectors.shape[0]
        return {
            name: part.reshape(task_count, *shape)
            for (name, shape), part in zip(
                self.shapes.items(), torch.split(vectors, list(self.sizes), dim=1), strict=True
            )
        }

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Flatten `{name: shape}` into one `(P,)` vector.

        Raises `ValueError` when the names or shapes are not the layout's.
        """
        if set(parameters) != set(self.shapes):
            wrong = sorted(set(parameters) ^ set(self.shapes))
            raise ValueError(f"parameters: missing or unknown names {', '.join(wrong)}")
        for name, shape in self.shapes.items():
            if tuple(parameters[name].shape) != shape:
                raise ValueError(
                    f"parameter {name}: expected shape {shape}, got {tuple(parameters[name].shape)}"
                )
        return torch.cat([parameters[name].reshape(-1) for name in self.shapes])
