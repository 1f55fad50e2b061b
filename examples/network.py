"""A convolutional network as another package brings it: it knows torch, and nothing of kshot.

The package registers it by an entry point, and recipes name it: CONTRIBUTING.md. Before a training
kshot checks that tasks do not mix, that it can be exported, and that ONNX Runtime answers alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SmallResidual:
    """Two 3x3 convolutions with batch norm, the second beside a shortcut, then the mean.

    Parameters carry a leading task axis of T, or of 1 where all tasks share them.
    """

    input_shape: tuple[int, int, int]
    epsilon: float
    filters: int = 16

    @property
    def feature_count(self) -> int:
        """Length of the feature vector."""
        return self.filters

    @property
    def body_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters, by name."""
        first = (self.filters, self.input_shape[0], 3, 3)
        second = (self.filters, self.filters, 3, 3)
        return {"first.kernel": first, "second.kernel": second}

    @property
    def statistics_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the batch statistics, by name."""
        return {
            f"{layer}.{moment}": (self.filters,)
            for layer in ("first", "second")
            for moment in ("mean", "variance")
        }

    def initialize_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw kernels whose outputs have about the inputs' size."""
        return {
            name: torch.randn(shape, generator=generator) / (9 * shape[1]) ** 0.5
            for name, shape in self.body_shapes.items()
        }

    def features(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        statistics: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Map images `(T, n, channels, height, width)` to `(T, n, filters)`."""
        used: dict[str, Tensor] = {}
        hidden = convolve(inputs, parameters["first.kernel"], stride=2)
        hidden = functional.relu(self._normalize("first", hidden, statistics, used))
        branch = convolve(hidden, parameters["second.kernel"], stride=1)
        hidden = functional.relu(hidden + self._normalize("second", branch, statistics, used))
        return hidden.mean(dim=(3, 4)), used

    def _normalize(
        self,
        layer: str,
        hidden: Tensor,
        statistics: Mapping[str, Tensor] | None,
        used: dict[str, Tensor],
    ) -> Tensor:
        """Normalize by the statistics given, or by those of each task's own images."""
        names = f"{layer}.mean", f"{layer}.variance"
        if statistics is None:
            axes = (1, 3, 4)
            moments = hidden.mean(dim=axes), hidden.var(dim=axes, unbiased=False)
        else:
            moments = statistics[names[0]], statistics[names[1]]
        used |= dict(zip(names, moments, strict=True))
        mean, variance = (moment[:, None, :, None, None] for moment in moments)
        return (hidden - mean) * torch.rsqrt(variance + self.epsilon)


def convolve(inputs: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Convolve `(T, n, channels, height, width)` with `(T or 1, filters, channels, 3, 3)`."""
    tasks, count = inputs.shape[:2]
    if kernel.shape[0] == 1:  # one kernel for all: the tasks' images are one batch
        images = functional.conv2d(inputs.flatten(0, 1), kernel[0], stride=stride, padding=1)
        return images.reshape(tasks, count, *images.shape[1:])
    # Own kernels: the tasks become groups of one convolution.
    grouped = inputs.transpose(0, 1).flatten(1, 2)  # (n, T * channels, height, width)
    kernels = kernel.flatten(0, 1)  # (T * filters, channels, 3, 3)
    images = functional.conv2d(grouped, kernels, stride=stride, padding=1, groups=tasks)
    return images.reshape(count, tasks, -1, *images.shape[2:]).transpose(0, 1)
