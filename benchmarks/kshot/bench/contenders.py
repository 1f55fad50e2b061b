"""Who adapts in `kshot bench adapt`: each a function without arguments that does it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kshot.bench import plain_loop
from kshot.bench.tasks import AdaptTask
from kshot.learner import (
    Conv4,
    ParameterLayout,
    build_inner_step,
    compile_step,
    compiler_name,
    run_inner_loop,
)

__all__ = [
    "Adapt",
    "Adapted",
    "jax_loop",
    "kshot_loop",
    "load_plain",
    "named_parameters",
    "plain",
    "plain_model",
    "plain_parameters",
]


@dataclass(frozen=True)
class Adapted:
    """An adaptation's outcome; naming its parameters is no part of it and comes afterwards.

    ``parameters`` returns them under the bundle's names, ``loss`` the last step's, before its
    update.
    """

    parameters: Callable[[], Mapping[str, Tensor]]
    loss: Callable[[], float]


Adapt = Callable[[], Adapted]


def kshot_loop(task: AdaptTask) -> Adapt:
    """Adapt as kshot does: the compiled inner loop, uncompiled where there is no compiler."""
    rule = task.rule
    step = build_inner_step(task.network, task.start().layout, rule)
    if compiler_name(task.device) is not None:
        step = compile_step(step)

    def adapt() -> Adapted:
        start = task.start()
        result = run_inner_loop(
            step, start, task.support[None], task.classes[None], task.batches[None], rule
        )
        return Adapted(
            lambda: named_parameters(result.state.layout, result.state.parameters),
            lambda: float(result.losses[-1, 0]),
        )

    return _finished(adapt, task.device)


def plain(task: AdaptTask, *, fused: bool = False) -> Adapt:
    """Adapt as `plain_loop.py` does; its Adam starts fresh, as one that was just made."""
    model = plain_model(task)
    yardstick = plain_loop.Task(task.support, task.classes, task.batches)

    def adapt() -> Adapted:
        adapted, loss = plain_loop.adapt(model, yardstick, task.rule.learning_rate, fused=fused)
        return Adapted(lambda: plain_parameters(adapted), lambda: float(loss))

    return _finished(adapt, task.device)


def jax_loop(task: AdaptTask) -> Adapt:
    """Adapt as `jax_loop.py` does, from the same v and t as kshot."""
    from kshot.bench import jax_loop as loops

    start = task.start()
    parameters, second_moment = (
        loops.from_names(named_parameters(start.layout, vector))
        for vector in (start.parameters, start.second_moment)
    )
    support = task.support.permute(0, 2, 3, 1).contiguous().numpy()
    loop = loops.Loop(task.rule.learning_rate, task.network.epsilon)

    def adapt() -> Adapted:
        adapted, _, losses = loops.adapt(
            loop,
            parameters,
            second_moment,
            start.step,
            support,
            task.classes.numpy(),
            task.batches.numpy(),
        )
        losses.block_until_ready()
        return Adapted(lambda: loops.to_names(adapted), lambda: float(losses[-1]))

    return adapt


def plain_model(task: AdaptTask) -> plain_loop.PlainConv4:
    """Build the yardstick's module with the parameters from which the task starts."""
    start = task.start()
    return load_plain(task.network, named_parameters(start.layout, start.parameters))


def load_plain(network: Conv4, parameters: Mapping[str, Tensor]) -> plain_loop.PlainConv4:
    """Build the yardstick's module with given parameters, on their device."""
    bias = parameters["head.bias"]
    model = plain_loop.PlainConv4(
        network.input_shape, network.filters, len(bias), network.epsilon
    ).to(bias)
    model.load_state_dict({own: parameters[name] for own, name in _plain_names(model).items()})
    return model


def named_parameters(layout: ParameterLayout, vectors: Tensor) -> dict[str, Tensor]:
    """Name the parts of the first of some parameter vectors ``(T, P)``."""
    return {name: value[0] for name, value in layout.split(vectors).items()}


def plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name the yardstick's parameters as the bundle does."""
    values = dict(model.named_parameters())
    return {name: values[own].detach() for own, name in _plain_names(model).items()}


def _plain_names(model: nn.Module) -> dict[str, str]:
    """Map the module's names, as ``blocks.0.1.weight``, to the bundle's."""
    names = {}
    kinds = {"1.weight": "convolution.weight", "2.weight": "batch_norm.scale"}
    kinds["2.bias"] = "batch_norm.shift"
    for own in model.state_dict():
        part, _, rest = own.partition(".")
        if part == "blocks":
            block, _, kind = rest.partition(".")
            names[own] = f"block{int(block) + 1}.{kinds[kind]}"
        else:
            names[own] = own
    return names


def _finished(adapt: Adapt, device: torch.device) -> Adapt:
    """Make a function end when its work has: a GPU's is only queued when the call returns."""
    if device.type != "cuda":
        return adapt

    def adapt_and_wait() -> Adapted:
        adapted = adapt()
        torch.cuda.synchronize(device)
        return adapted

    return adapt_and_wait
