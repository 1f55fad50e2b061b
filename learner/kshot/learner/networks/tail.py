"""The last layers of an encoder's network, as a function of parameters that adapt."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import TAIL_CLASSES, TailBlock, TailSpec

KERNEL = 3
# Of the cosine between a picture and a class: the temperature of cosine classifiers is about 1/10.
SCALE = 10.0


class Tail:
    """Inverted residuals (Sandler et al. 2018, figure 3) and a convolution, batch norm folded in.

    Parameters are named `tail.blocks.0.expand.weight`, …, `tail.last.bias`; there is no task axis.
    """

    def __init__(self, spec: TailSpec) -> None:
        self.spec = spec

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the parameters by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = self.spec.map_shape[0]
        for number, block in enumerate(self.spec.blocks):
            hidden = channels * block.expansion
            place = f"tail.blocks.{number}"
            shapes |= _layer(f"{place}.expand", (hidden, channels, 1, 1))
            shapes |= _layer(f"{place}.depthwise", (hidden, 1, KERNEL, KERNEL))
            shapes |= _layer(f"{place}.project", (block.channels, hidden, 1, 1))
            channels = block.channels
        return shapes | _layer("tail.last", (self.spec.feature_count, channels, 1, 1))

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise `ValueError` unless the parameters have the names and shapes of this tail."""
        got = {name: tuple(value.shape) for name, value in parameters.items()}
        for name in sorted(got.keys() | self.shapes.keys()):
            wanted, found = self.shapes.get(name, "no such parameter"), got.get(name, "none")
            if wanted != found:
                raise ValueError(f"tail: {name}: expected {wanted}, got {found}")

    def features(self, parameters: Mapping[str, Tensor], maps: Tensor) -> Tensor:
        """Map `(n, channels, height, width)` to features of length 1, `(n, feature_count)`."""
        hidden = maps
        for number, block in enumerate(self.spec.blocks):
            hidden = _block(parameters, f"tail.blocks.{number}", block, hidden)
        hidden = functional.relu6(_convolved(parameters, "tail.last", hidden))
        return _unit(hidden.mean(dim=(2, 3)))

    def logits(self, parameters: Mapping[str, Tensor], maps: Tensor) -> Tensor:
        """Return ten times the cosine with each class `(n, way)`; `tail.classes` are its rows."""
        return SCALE * self.features(parameters, maps) @ _unit(parameters[TAIL_CLASSES]).T


def mixed_logits(head_logits: Tensor, tail_logits: Tensor, mix: Tensor) -> Tensor:
    """Add the log-probabilities of head and tail `(n, way)`, weighed by `tail.mix` `(2,)`."""
    return mix[0] * head_logits.log_softmax(dim=1) + mix[1] * tail_logits.log_softmax(dim=1)


def split_maps(spec: TailSpec, inputs: Tensor) -> Tensor:
    """Take the maps `(n, *map_shape)` from what an encoder gives, `(n, F, 1, 1)`."""
    return inputs.flatten(1)[:, -spec.map_size :].reshape(-1, *spec.map_shape)


def _layer(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _block(
    parameters: Mapping[str, Tensor], place: str, block: TailBlock, inputs: Tensor
) -> Tensor:
    hidden = functional.relu6(_convolved(parameters, f"{place}.expand", inputs))
    weight, bias = parameters[f"{place}.depthwise.weight"], parameters[f"{place}.depthwise.bias"]
    hidden = functional.conv2d(
        hidden, weight, bias, block.stride, padding=KERNEL // 2, groups=hidden.shape[1]
    )
    outputs = _convolved(parameters, f"{place}.project", functional.relu6(hidden))
    same = block.stride == 1 and block.channels == inputs.shape[1]
    return inputs + outputs if same else outputs


def _convolved(parameters: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    return functional.conv2d(inputs, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _unit(rows: Tensor) -> Tensor:
    return rows * torch.rsqrt(rows.square().sum(dim=1, keepdim=True).clamp_min(1e-12))
