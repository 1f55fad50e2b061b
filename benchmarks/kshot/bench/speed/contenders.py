"""Who adapts in `kshot bench adapt`: each a function without arguments that does it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import torch
from torch import Tensor, nn

from kshot.bench.report import say
from kshot.bench.speed import plain_loop
from kshot.bench.speed.timed_tasks import AdaptTask, way_bucket
from kshot.learner import (
    CompilationError,
    Conv4,
    InnerStep,
    ParameterLayout,
    Slots,
    SlotTask,
    StepSpec,
    compile_step,
    graphed,
    layout_of,
)

__all__ = [
    "Adapt",
    "Adapted",
    "inner_step",
    "jax_loop",
    "kshot_loop",
    "kshot_spec",
    "load_plain",
    "named_parameters",
    "plain",
    "plain_model",
    "plain_parameters",
    "slot_task",
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


def inner_step(
    spec: StepSpec, device: torch.device, compiled: bool | None
) -> tuple[InnerStep, bool]:
    """Build kshot's inner step and tell whether it is compiled: with None, where that works.

    Raises ``ClickException`` when it was to be compiled and cannot be.
    """
    if compiled is False:
        return graphed(spec.build(), device), False
    say("compiling kshot's inner step")
    try:
        return compile_step(spec, device), True
    except CompilationError as error:
        if compiled:
            raise click.ClickException(str(error)) from error
        say(f"{error}; kshot is measured uncompiled")
        return graphed(spec.build(), device), False


def kshot_spec(task: AdaptTask) -> StepSpec:
    """Describe the inner step that serves a task, its way padded to the bundle's bucket."""
    bucket = way_bucket(task.manifest, task.size.way)
    scope = task.manifest.scope.default
    return StepSpec.of(task.manifest, bucket, task.size.batch_size, task.rule, scope)


def slot_task(task: AdaptTask) -> SlotTask:
    """Start a task as it joins kshot's slots."""
    state = task.start(way_bucket(task.manifest, task.size.way))
    return SlotTask(state, task.support, task.classes, task.batches, task.rule)


def kshot_loop(task: AdaptTask, step: InnerStep) -> Adapt:
    """Adapt as the engine does: the task takes a slot, steps, and leaves; step by `kshot_spec`."""
    most = task.manifest.limits.max_step_count
    slots = Slots(lambda _width: step, (1,), 1, most, slot_task(task))

    def adapt() -> Adapted:
        started = slot_task(task)
        handle = slots.join(started)
        for _ in range(task.size.step_count):
            slots.advance()
        result = slots.leave(handle)
        padded = named_parameters(started.state.layout, result.parameters[None])
        shapes = layout_of(task.network, task.size.way).shapes
        return Adapted(
            lambda: {name: padded[name][: shape[0]] for name, shape in shapes.items()},
            lambda: float(result.losses[-1]),
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
    from kshot.bench.speed import jax_loop as loops

    start = task.start()
    parameters, second_moment = (
        loops.from_names(named_parameters(start.layout, vector))
        for vector in (start.parameters, start.second_moment)
    )
    state = loops.State(parameters, second_moment, loops.whole(start.step))
    support = task.support.permute(0, 2, 3, 1).contiguous().numpy()
    classes, batches = task.classes.numpy(), task.batches.numpy()
    loop = loops.Loop(task.rule.learning_rate, task.network.epsilon)

    def adapt() -> Adapted:
        adapted, losses = loops.adapt(state, support, classes, batches, loop=loop)
        losses.block_until_ready()
        return Adapted(lambda: loops.to_names(adapted.parameters), lambda: float(losses[-1]))

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
