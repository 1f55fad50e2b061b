"""The meta-learned start of every inner loop, and its head for any way."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from kshot.bundle import BatchNormMode, Bundle, Head, Preconditioner, RidgeSettings, Weights
from kshot.learner.layout import ParameterLayout
from kshot.learner.networks.network import Network, build_network, layout_of
from kshot.learner.steps.support_head import head_from_support


@dataclass(frozen=True)
class Initialization:
    """The result of meta-training: parameters, Adam's second moment v of each, Adam's step t.

    `ridge` are the settings of head `ridge`, where the bundle has them.
    """

    network: Network
    way: int
    parameters: Mapping[str, Tensor]
    second_moment: Mapping[str, Tensor]
    step: int
    ridge: RidgeSettings | None = None

    @staticmethod
    def from_bundle(bundle: Bundle, device: torch.device) -> "Initialization":
        """Build a bundle's network and move its weights to a device.

        Raises `ValueError` when they do not fit each other or the manifest.
        """
        manifest = bundle.manifest
        shape, epsilon = manifest.network_input_shape, manifest.batch_norm.epsilon
        network = build_network(manifest.network, shape, epsilon)
        if network.statistics_shapes and BatchNormMode.STORED in manifest.batch_norm.allowed:
            raise ValueError(
                f"network: expected one without batch statistics for mode stored, got "
                f"{manifest.network.name} with {len(network.statistics_shapes)} of them"
            )
        initialization = Initialization.from_weights(network, bundle.read_weights(), device)
        if initialization.way != manifest.training.way:
            raise ValueError(
                f"head.bias: expected {manifest.training.way} rows as the manifest's training.way, "
                f"got {initialization.way}"
            )
        return replace(initialization, ridge=manifest.ridge)

    @staticmethod
    def from_weights(network: Network, weights: Weights, device: torch.device) -> "Initialization":
        """Move a bundle's weights to a device.

        Raises `ValueError` when their names or shapes are not the network's.
        """
        parameters, second_moment = (
            {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}
            for arrays in (weights.parameters, weights.second_moment)
        )
        if "head.bias" not in parameters:
            raise ValueError("parameter head.bias is missing from the weights")
        way = parameters["head.bias"].shape[0]
        layout = layout_of(network, way)
        layout.join(parameters)
        layout.join(second_moment)
        return Initialization(network, way, parameters, second_moment, weights.step)


@dataclass(frozen=True)
class LoopState:
    """T tasks inside their inner loops: parameters and v `(T, P)`, Adam's step, real ways.

    `way_mask` is bool `(T, bucket)`, true where a class is real; None where all are. A state that
    starts one task with a head from its support set has `held_out_logits` `(n, way)`, see
    `SupportHead`.
    """

    layout: ParameterLayout
    parameters: Tensor
    second_moment: Tensor
    step: int
    way_mask: Tensor | None = None
    held_out_logits: Tensor | None = None

    @property
    def real_ways(self) -> Tensor:
        """Return the way mask; without one, all ways are real."""
        if self.way_mask is not None:
            return self.way_mask
        shape = self.parameters.shape[0], self.layout.shapes["head.bias"][0]
        return torch.ones(shape, dtype=torch.bool, device=self.parameters.device)


def start_state(
    initialization: Initialization,
    way: int,
    *,
    head: Head,
    preconditioner: Preconditioner,
    support: Tensor | None = None,
    classes: Tensor | None = None,
    bucket: int | None = None,
) -> LoopState:
    """Start one task of any way: the trained body, and a head of `way` rows.

    `trained` keeps rows 0..way-1 and fills the rest with the mean row; `zero` starts at zero;
    `prototype` is `prototype_head` and `ridge` is `ridge_head`; they need the prepared support set
    `(n, channels, height, width)` and its classes `(n,)`. In all four, v of a row is the trained
    row's, or the mean row's beyond it. A `bucket` larger than the way pads the head with rows that
    are masked out of the loss.
    """
    bucket = way if bucket is None else bucket
    parameters = {
        name: _resized(name, value, way, bucket)
        for name, value in initialization.parameters.items()
    }
    if head is Head.ZERO:
        for name in ("head.weight", "head.bias"):
            parameters[name] = torch.zeros_like(parameters[name])
    held_out_logits = None
    if head.from_support:
        if support is None or classes is None:
            raise ValueError(f"head {head} needs the support set and its classes")
        shared = {name: value.unsqueeze(0) for name, value in initialization.parameters.items()}
        made = head_from_support(
            initialization.network,
            shared,
            support,
            classes,
            way,
            head=head,
            ridge=initialization.ridge,
        )
        parameters["head.weight"] = functional.pad(made.weight, (0, 0, 0, bucket - way))
        parameters["head.bias"] = functional.pad(made.bias, (0, bucket - way))
        held_out_logits = made.held_out_logits
    layout = layout_of(initialization.network, bucket)
    vector = layout.join(parameters).unsqueeze(0)
    if preconditioner in (Preconditioner.CARRIED, Preconditioner.FROZEN):
        second_moment = layout.join(
            {
                name: _resized(name, value, way, bucket)
                for name, value in initialization.second_moment.items()
            }
        ).unsqueeze(0)
        step = initialization.step
    else:
        second_moment, step = torch.zeros_like(vector), 0
    mask = (torch.arange(bucket, device=vector.device) < way).unsqueeze(0)
    return LoopState(layout, vector, second_moment, step, mask, held_out_logits)


def stack_states(states: list[LoopState]) -> LoopState:
    """Stack tasks that share a layout and a step along the task axis.

    Raises `ValueError` when they do not share them.
    """
    first = states[0]
    if any(s.layout != first.layout or s.step != first.step for s in states):
        raise ValueError("tasks of different way buckets or Adam steps cannot be stacked")
    return LoopState(
        first.layout,
        torch.cat([s.parameters for s in states]),
        torch.cat([s.second_moment for s in states]),
        first.step,
        torch.cat([s.real_ways for s in states]),
    )


def _resized(name: str, value: Tensor, way: int, bucket: int) -> Tensor:
    """Give a head's tensor `bucket` rows: trained rows, then the mean row, then zero padding."""
    if not name.startswith("head."):
        return value
    trained = value[:way]
    mean_row = value.mean(dim=0, keepdim=True)
    extra = mean_row.expand(max(way - value.shape[0], 0), *value.shape[1:])
    padding = value.new_zeros(bucket - way, *value.shape[1:])
    return torch.cat([trained, extra, padding])
