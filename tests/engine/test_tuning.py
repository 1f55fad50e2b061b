"""Plans change behind the tasks: at first, and once a step is compiled."""

import threading
from dataclasses import replace

import pytest
import torch

from kshot.engine.budget import Budget
from kshot.engine.device import DeviceDescription, choose_device
from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.scheduler import Scheduler, SlotPlan
from kshot.engine.tuning import Tuning
from kshot.engine.warm_up import LEAST_MEASURED, Measuring, blank_task, first_plan
from kshot.learner import Slots, StepCache, StepSpec, default_cache_folder


def tune(tuning: Tuning, model: LoadedModel) -> None:
    """Measure a model in this thread."""
    tuning.add(model)
    tuning._tune([model])


@pytest.fixture
def device() -> DeviceDescription:
    return choose_device("cpu")


@pytest.mark.compiled
def test_a_step_that_is_compiled_meanwhile_takes_over(
    perceptron: LoadedModel,
    device: DeviceDescription,
    default_step: object,  # noqa: ARG001 -- asked for its effect
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until then tasks take plain steps, and one that runs goes on with them."""
    compiled, load = threading.Event(), StepCache.load

    def load_later(cache: StepCache, *arguments: object) -> object:
        return load(cache, *arguments) if compiled.is_set() else None  # type: ignore[arg-type]

    def compile_later(*_: object) -> None:
        compiled.wait()

    monkeypatch.setattr(StepCache, "load", load_later)
    monkeypatch.setattr(Programs, "_compile", compile_later)
    programs = Programs(StepCache.open(default_cache_folder()), torch.device("cpu"))
    scheduler = Scheduler(programs, device, first_plan(device))
    tuning = Tuning(programs, device, scheduler)
    task, budget = blank_task(perceptron), Budget(None, allow_partial=False)

    with caplog.at_level("INFO"):
        tuning.add(perceptron)
        tuning.start([perceptron])
        plain = scheduler.submit(perceptron, task, budget).result()
        before = tuning.compute_path(), tuning.compiling_count()
        compiled.set()
        while tuning.compiling_count():  # pytest's time limit ends this
            pass
        scheduler.call(lambda: None).result()
        adapted = scheduler.submit(perceptron, task, budget).result()

    assert (plain.compute_path, 2) == before
    assert plain.compute_path.startswith("eager/")
    assert adapted.compute_path == tuning.compute_path()
    assert adapted.compute_path.startswith("compiled/")
    assert caplog.messages.count("compiling") == 2
    assert "compiled" in caplog.messages
    scheduler.close()
    programs.close()


def test_a_measurement_takes_a_step_in_each_round(
    model: LoadedModel, device: DeviceDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its steps are, others take theirs in between, and no round seems to hang."""
    programs = Programs(None, device.device)
    scheduler = Scheduler(programs, device, first_plan(device))
    rounds, advance, call = list[int](), Slots.advance, Scheduler._call

    def count(slots: Slots) -> dict[int, float]:
        rounds[-1] += 1
        return advance(slots)

    def begin(scheduler: Scheduler) -> None:
        rounds.append(0)
        call(scheduler)

    monkeypatch.setattr(Slots, "advance", count)
    monkeypatch.setattr(Scheduler, "_call", begin)

    tune(Tuning(programs, device, scheduler), model)

    assert len(rounds) > sum(rounds) > LEAST_MEASURED
    assert max(rounds) == 1
    scheduler.close()


def test_a_step_compiled_while_another_model_is_measured_is_measured_too(
    model: LoadedModel, device: DeviceDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it any more: it is there when its turn comes."""
    manifest = replace(model.bundle.manifest, name="other")
    other = replace(model, bundle=replace(model.bundle, manifest=manifest))
    programs, compiled, measured = Programs(None, device.device), set[StepSpec](), list[str]()
    scheduler = Scheduler(programs, device, first_plan(device))
    tuning = Tuning(programs, device, scheduler)
    tuning.add(model)
    tuning.add(other)

    def plan(model: LoadedModel, *_: object) -> Measuring[SlotPlan]:
        measured.append(model.name)
        if model is other:
            compiled.add(tuning._steps[other][0])
        yield
        return first_plan(device)

    monkeypatch.setattr("kshot.engine.tuning.plan_slots", plan)
    monkeypatch.setattr(programs, "get", lambda step, _name: step if step in compiled else None)

    tuning._tune([model, other])

    assert measured == ["small", "other", "small", "other"]
    scheduler.close()


def test_a_plan_that_cannot_be_measured_stays(
    model: LoadedModel,
    device: DeviceDescription,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("kshot.engine.tuning.plan_slots", fail)
    programs = Programs(None, device.device)
    scheduler = Scheduler(programs, device, first_plan(device))

    tune(Tuning(programs, device, scheduler), model)

    assert "slots_not_measured" in caplog.messages
    budget = Budget(None, allow_partial=False)
    assert scheduler.submit(model, blank_task(model), budget).result().step_count == 2
    scheduler.close()
