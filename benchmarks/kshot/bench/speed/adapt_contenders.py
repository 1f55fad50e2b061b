"""Contenders of `kshot bench adapt`: kshot's loop and the plain one (`jax_contenders` has JAX's).

Each is a function without arguments that adapts once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from kshot.bench.report import say
from kshot.bench.speed import plain_loop
from kshot.bench.speed.timed_task import Size, TimedTask, generated_task, open_initialization
from kshot.bench.speed.timing import synchronized
from kshot.bundle import load_bundle
from kshot.learner import (
    CompilationError,
    Conv4,
    InnerStep,
    ParameterLayout,
    SlotResult,
    Slots,
    SlotTask,
    StepSpec,
    compile_step,
    graphed,
)


def inner_step(
    spec: StepSpec, device: torch.device, compiled: bool | None
) -> tuple[InnerStep, bool]:
    """Build kshot's inner step and tell whether it is compiled: with None, where that works.

    Raises `ClickException` when `compiled` is True and the step cannot be compiled.
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


def kshot_spec(task: TimedTask) -> StepSpec:
    """Describe the inner step that serves a task, its way padded to the bundle's bucket."""
    manifest, bucket = task.manifest, task.manifest.way_bucket(task.size.way)
    return StepSpec.of(
        manifest, bucket, task.size.batch_size, task.rule, manifest.scope.default.of_steps
    )


def kshot_loop(task: TimedTask, step: InnerStep, tasks: int = 1) -> Callable[[], list[SlotResult]]:
    """Adapt copies of a task together as the engine does: they take slots, step and leave.

    The step is that of `kshot_spec` for the same number of tasks.
    """

    def started() -> SlotTask:
        state = task.start(task.manifest.way_bucket(task.size.way))
        return SlotTask(state, task.support, task.classes, task.batches, task.rule)

    most = task.manifest.limits.max_step_count
    slots = Slots(lambda _width: step, (tasks,), tasks, most, started())

    def adapt() -> list[SlotResult]:
        handles = [slots.join(started()) for _ in range(tasks)]
        for _ in range(task.size.step_count):
            slots.advance()
        return [slots.leave(handle) for handle in handles]

    return synchronized(adapt, task.device)


def contenders(
    task: TimedTask, step: InnerStep, *, with_jax: bool
) -> dict[str, Callable[[], object]]:
    """Return all contenders on a task by name, kshot with its inner step first."""
    made: dict[str, Callable[[], object]] = {
        "kshot": kshot_loop(task, step),
        "eager": plain(task),
        "eager_fused": plain(task, fused=True),
    }
    if with_jax:
        from kshot.bench.speed.jax_contenders import jax_adapt

        made["jax"] = jax_adapt(task)
    return made


def in_process(
    bundle: Path, size: Size, device_name: str, *, compiled: bool, with_jax: bool
) -> dict[str, Callable[[], object]]:
    """Make the contenders of a process of their own, with one thread.

    A step that is `compiled` must be in the cache.
    """
    torch.set_num_threads(1)
    device, loaded = torch.device(device_name), load_bundle(bundle)
    task = generated_task(loaded.manifest, open_initialization(loaded, device), size)
    spec = kshot_spec(task)
    step = compile_step(spec, device) if compiled else graphed(spec.build(), device)
    return contenders(task, step, with_jax=with_jax)


def plain(task: TimedTask, *, fused: bool = False) -> Callable[[], tuple[nn.Module, Tensor]]:
    """Adapt as `plain_loop.py` does, with a new Adam; gives the model and its last loss."""
    model = plain_model(task)
    yardstick = plain_loop.Task(task.support, task.classes, task.batches)

    def adapt() -> tuple[nn.Module, Tensor]:
        return plain_loop.adapt(model, yardstick, task.rule.learning_rate, fused=fused)

    return synchronized(adapt, task.device)


def plain_model(task: TimedTask) -> plain_loop.PlainConv4:
    """Build the plain loop's module with the parameters from which the task starts."""
    start = task.start()
    return load_plain(task.network, named_parameters(start.layout, start.parameters))


def load_plain(network: Conv4, parameters: Mapping[str, Tensor]) -> plain_loop.PlainConv4:
    """Build the plain loop's module with a bundle's parameters, on their device."""
    bias = parameters["head.bias"]
    model = plain_loop.PlainConv4(
        network.input_shape, network.filters, len(bias), network.epsilon
    ).to(bias)
    with torch.no_grad():  # module and bundle have the same order
        for own, value in zip(model.parameters(), parameters.values(), strict=True):
            own.copy_(value)
    return model


def named_parameters(layout: ParameterLayout, vectors: Tensor) -> dict[str, Tensor]:
    """Name the parts of the first of some parameter vectors `(T, P)`."""
    return {name: value[0] for name, value in layout.split(vectors).items()}
