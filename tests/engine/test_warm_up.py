from dataclasses import replace
from typing import cast

import pytest
import torch

from kshot.bundle import Head, HeadPolicy, StepCountRule
from kshot.engine.device import choose_device
from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.scheduler import SlotPlan
from kshot.engine.slot_tasks import slot_task, step_spec
from kshot.engine.warm_up import (
    MEASURED_STEPS,
    Measuring,
    Result,
    blank_task,
    choose_plan,
    default_steps,
    first_plan,
    measure_rates,
    measure_tail,
    plan_slots,
    takes_no_step,
)


def finished(measuring: Measuring[Result]) -> Result:
    """Let a measurement go on to its end."""
    while True:
        try:
            next(measuring)
        except StopIteration as end:
            return cast(Result, end.value)


@pytest.mark.parametrize(
    ("rates", "plan"),
    [
        ({1: 100.0}, SlotPlan(2, (1,))),
        ({1: 100.0, 2: 105.0}, SlotPlan(2, (1,))),
        ({1: 100.0, 2: 150.0}, SlotPlan(2, (1, 2))),
        ({1: 10.0, 4: 40.0, 16: 120.0, 64: 125.0}, SlotPlan(16, (1, 4, 16))),
        ({1: 10.0, 4: 40.0, 16: 160.0, 64: 600.0}, SlotPlan(64, (1, 4, 16, 64))),
    ],
)
def test_slots_are_as_many_as_pay(rates: dict[int, float], plan: SlotPlan) -> None:
    assert choose_plan(rates) == plan


def test_each_width_is_measured(model: LoadedModel) -> None:
    task = slot_task(model, blank_task(model))
    task = type(task)(
        task.state,
        task.support,
        task.classes,
        task.indices[:1].repeat(MEASURED_STEPS + 1, 1),
        task.rule,
    )
    step = step_spec(model, blank_task(model)).build()

    rates = finished(measure_rates(task, {1: step, 2: step}, torch.device("cpu")))

    assert set(rates) == {1, 2}
    assert all(rate > 0 for rate in rates.values())


def test_without_a_compiler_there_is_a_plan_all_the_same(model: LoadedModel) -> None:
    device = choose_device("cpu")

    plan = finished(plan_slots(model, Programs(None, device.device), device))

    assert plan.slot_count == 2
    assert 1 in plan.widths


def test_a_model_that_takes_no_step_compiles_nothing(model: LoadedModel) -> None:
    manifest = model.bundle.manifest
    loop, head = replace(manifest.inner_loop, step_count=0), Head.PROTOTYPE
    policy = HeadPolicy(head, (head,))
    stepless = replace(manifest, inner_loop=loop, head=policy, schema_version=2)
    rules = (StepCountRule(1, 0), StepCountRule(5, 3))
    stepping = replace(stepless, inner_loop=replace(loop, step_count_by_shot=rules))

    device = choose_device("cpu")
    still = replace(model, bundle=replace(model.bundle, manifest=stepless))
    moving = replace(model, bundle=replace(model.bundle, manifest=stepping))

    assert default_steps(still, device) == []
    assert [step.task_count for step in default_steps(moving, device)] == [1, 2]
    assert first_plan(device) == SlotPlan(2, (1,))
    assert blank_task(still).step_count == 0
    assert not takes_no_step(moving)
    assert blank_task(moving).step_count == 2


def test_a_tail_is_measured_for_each_example(tailed: LoadedModel) -> None:
    assert tailed.tail is not None

    assert 0 < finished(measure_tail(tailed.tail)) < 1


def test_a_tail_that_takes_all_for_alike_never_steps(tailed: LoadedModel) -> None:
    assert tailed.tail is not None
    blind = {name: torch.ones_like(value) for name, value in tailed.tail.parameters.items()}
    blind["tail.last.weight"] = torch.zeros_like(blind["tail.last.weight"])

    assert finished(measure_tail(replace(tailed.tail, parameters=blind))) == 0
