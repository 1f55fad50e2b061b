import pytest
import torch

from kshot.engine.device import choose_device
from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.scheduler import SlotPlan
from kshot.engine.slot_tasks import slot_task, step_spec
from kshot.engine.warm_up import MEASURED_STEPS, blank_task, choose_plan, measure_rates, plan_slots


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

    rates = measure_rates(task, {1: step, 2: step}, torch.device("cpu"))

    assert set(rates) == {1, 2}
    assert all(rate > 0 for rate in rates.values())


def test_without_a_compiler_there_is_a_plan_all_the_same(model: LoadedModel) -> None:
    device = choose_device("cpu")

    plan = plan_slots(model, Programs(None, device.device), device)

    assert plan.slot_count == 2
    assert 1 in plan.widths
