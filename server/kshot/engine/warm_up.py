"""The start of an engine: what it measures, and how many slots pay."""

import logging
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from kshot.engine.device import LAUNCH_WIDTHS, DeviceDescription, ran_out_of_memory
from kshot.engine.models import LoadedModel, LoadedTail
from kshot.engine.programs import Programs
from kshot.engine.scheduler import SlotPlan
from kshot.engine.slot_tasks import slot_task, step_spec
from kshot.engine.task import EngineTask
from kshot.learner import (
    InnerStep,
    RefinementTask,
    Slots,
    SlotTask,
    StepSpec,
    graphed,
    refine,
)

# On one core a second slot serves only short tasks, which then do not wait for long ones.
LEAST_SLOTS = 2
MEASURED_STEPS, LEAST_MEASURED = 20, 3
MEASURED_SECONDS = 0.2  # for each width
# More slots slow down each task, so they must raise the rate beyond this share of the best.
NEAR_BEST = 0.9
# A tail's examples: thirty, of which each of three folds leaves twenty to step on.
TAIL_WAY, TAIL_SHOT, TAIL_SEEN = 10, 3, 20
TAIL_STEPS = 3

Result = TypeVar("Result")
Measuring = Generator[None, None, Result]

_log = logging.getLogger(__name__)


def takes_no_step(model: LoadedModel) -> bool:
    """Tell whether a model's defaults never take an inner step."""
    loop = model.bundle.manifest.inner_loop
    rules = loop.step_count_by_shot or ()
    return not any((loop.step_count, *(rule.step_count for rule in rules)))


def blank_task(model: LoadedModel) -> EngineTask:
    """Make a task of blank images with the model's defaults."""
    manifest = model.bundle.manifest
    way = manifest.usual_way
    return EngineTask(
        support=np.zeros((way, *manifest.network_input_shape), dtype=np.float32),
        classes=np.arange(way),
        way=way,
        step_count=0 if takes_no_step(model) else min(2, manifest.limits.max_step_count),
        learning_rate=manifest.inner_loop.learning_rate,
        batch_size=manifest.default_batch_size(way),
        preconditioner=manifest.inner_loop.preconditioner,
        head=manifest.head.default,
        scope=manifest.scope.default,
        seed=0,
    )


def first_plan(device: DeviceDescription) -> SlotPlan:
    """Return a plan that works before anything is measured."""
    widths = LAUNCH_WIDTHS[device.kind] if device.kind == "cuda" else (1,)
    return SlotPlan(max(LEAST_SLOTS, *widths), widths)


def default_steps(model: LoadedModel, device: DeviceDescription) -> list[StepSpec]:
    """Describe the steps of a model's default task, by width; none where it takes no step."""
    if takes_no_step(model):
        return []
    spec = step_spec(model, blank_task(model))
    return [spec.of_tasks(width) for width in LAUNCH_WIDTHS[device.kind]]


def plan_slots(
    model: LoadedModel, programs: Programs, device: DeviceDescription
) -> Measuring[SlotPlan]:
    """Measure how many tasks of a model that takes steps should step together; yield often.

    Its compiled steps are measured where there are some; those that are missing are requested.
    """
    task = blank_task(model)
    specs = {spec.task_count: spec for spec in default_steps(model, device)}
    compiled = {width: programs.get(spec, model.name) for width, spec in specs.items()}
    steps = {width: step for width, step in compiled.items() if step is not None}
    if 1 not in steps:
        steps = dict.fromkeys(specs, specs[1].build())
    like = slot_task(model, task)
    # The number of steps is that of the measurement.
    like = replace(like, indices=like.indices[:1].repeat(MEASURED_STEPS + 1, 1))
    try:
        rates = yield from measure_rates(like, steps, device.device)
    except RuntimeError as error:
        if steps[1] is not compiled[1] or ran_out_of_memory(error):
            raise
        _log.warning("compiled_step_fails", extra={"fields": {"reason": str(error)}})
        for width in steps:
            programs.refuse(specs[width])
        rates = yield from measure_rates(
            like, dict.fromkeys(specs, specs[1].build()), device.device
        )
    plan = choose_plan(rates)
    _log.info(
        "slots_measured",
        extra={
            "fields": {
                "model": model.name,
                "compiled": programs.loaded(specs[1]),
                "slots": plan.slot_count,
                "steps_per_second": {width: round(rate, 1) for width, rate in rates.items()},
            }
        },
    )
    return plan


def choose_plan(rates: Mapping[int, float]) -> SlotPlan:
    """Choose the smallest launch whose rate is near the best, and the slots that fill it."""
    best = max(rates.values())
    widest = min(width for width, rate in rates.items() if rate >= NEAR_BEST * best)
    widths = tuple(sorted(width for width in rates if width <= widest))
    return SlotPlan(max(LEAST_SLOTS, widest), widths)


def measure_rates(
    like: SlotTask, steps: Mapping[int, InnerStep], device: torch.device
) -> Measuring[dict[int, float]]:
    """Return the steps per second of all tasks, by the number of tasks that step together.

    The task given has `MEASURED_STEPS + 1` steps. It yields after each, for others to take theirs;
    long ones are measured a few times only.
    """
    rates = {}
    for width, step in steps.items():
        ready = graphed(step, device)
        slots = Slots({width: ready}.__getitem__, (width,), width, MEASURED_STEPS + 1, like)
        for _ in range(width):
            slots.join(like)
        slots.advance()
        yield
        seconds: list[float] = []
        while len(seconds) < MEASURED_STEPS:
            if len(seconds) >= LEAST_MEASURED and sum(seconds) > MEASURED_SECONDS:
                break
            _finish_launched(device)
            began = time.perf_counter()
            slots.advance()
            _finish_launched(device)
            seconds.append(time.perf_counter() - began)
            yield
        rates[width] = width / sorted(seconds)[len(seconds) // 2]
    return rates


def measure_tail(tail: LoadedTail) -> Measuring[float]:
    """Return the seconds that a step of a tail takes for each example, the least of some.

    On a CPU those of this thread, so that plans do not depend on what else runs. It yields after
    each. The first, which makes the buffers, does not count. A tail that takes all pictures for
    alike takes no step: 0.
    """
    device = next(iter(tail.parameters.values())).device
    count = TAIL_WAY * TAIL_SHOT
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, count, *tail.network.spec.map_shape, generator=generator)
    task = RefinementTask(
        maps=maps.to(device),
        classes=torch.arange(TAIL_WAY).repeat(TAIL_SHOT).to(device),
        way=TAIL_WAY,
        head_logits=torch.zeros(count, TAIL_WAY, device=device),
        step_count=1,
        fold_step_count=TAIL_STEPS + 1,
        seed=0,
    )
    steps = refine(tail.network, tail.parameters, task)
    try:
        next(steps)
    except StopIteration:
        return 0.0
    yield
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    seconds = []
    for _ in range(TAIL_STEPS):
        _finish_launched(device)
        began = clock()
        next(steps)
        _finish_launched(device)
        seconds.append(clock() - began)
        yield
    return min(seconds) / TAIL_SEEN


def _finish_launched(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
