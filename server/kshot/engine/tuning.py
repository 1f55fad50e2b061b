"""What an engine does behind its tasks: it has steps compiled, and measures them."""

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from functools import partial

from kshot.engine.device import DeviceDescription
from kshot.engine.models import LoadedModel
from kshot.engine.programs import Programs
from kshot.engine.scheduler import Scheduler, SlotPlan
from kshot.engine.warm_up import Measuring, default_steps, plan_slots
from kshot.learner import StepSpec

_log = logging.getLogger(__name__)


class Tuning:
    """Replaces the plans of models whose defaults take steps: at first, and when one is compiled.

    The thread that computes measures between its rounds; tasks that run keep their steps.
    """

    def __init__(self, programs: Programs, device: DeviceDescription, scheduler: Scheduler) -> None:
        self._steps: dict[LoadedModel, list[StepSpec]] = {}
        self._plain = set[tuple[LoadedModel, StepSpec]]()  # when it was measured
        self._programs = programs
        self._device = device
        self._scheduler = scheduler

    def compute_path(self) -> str:
        """Name how the default steps are computed now, those of the first model that takes some."""
        first = next((steps[0] for steps in self._steps.values() if steps), None)
        compiled = first is not None and self._programs.loaded(first)
        return self._device.compute_path(compiled=compiled)

    def compiling_count(self) -> int:
        """Count the steps that are being compiled, or wait for that."""
        return self._programs.compiling_count()

    def add(self, model: LoadedModel) -> None:
        """Load the steps of a model that are compiled, and request the others."""
        steps = default_steps(model, self._device)
        self._steps = {**self._steps, model: steps}  # other threads go through the old ones
        for step in steps:
            self._programs.get(step, model.name)

    def forget(self, model: LoadedModel) -> None:
        """Measure a model no more."""
        self._steps = {known: steps for known, steps in self._steps.items() if known is not model}

    def start(self, models: Sequence[LoadedModel]) -> None:
        """Measure models that were added in a thread, and again when steps are compiled."""
        threading.Thread(target=self._tune, args=[models], name="tuning", daemon=True).start()

    def _tune(self, models: Sequence[LoadedModel]) -> None:
        steps = self._steps
        for model in models:
            if steps.get(model):
                self._measure(model)
        wanted = [(step, model) for model in models for step in steps.get(model, ())]
        for step, model in sorted(wanted, key=lambda pair: pair[0].task_count):
            self._programs.wait(step)  # in this order they are compiled
            if (model, step) in self._plain and self._programs.get(step, model.name) is not None:
                self._measure(model)

    def _measure(self, model: LoadedModel) -> None:
        """Measure a step in each round, so that tasks go on meanwhile and no round takes long."""
        for step in self._steps.get(model, ()):
            if self._programs.get(step, model.name) is None:
                self._plain.add((model, step))
            else:
                self._plain.discard((model, step))
        try:
            plan = self._scheduler.call_in_steps(self._plan(model))
            self._scheduler.call(partial(self._replan, model, plan)).result()
        except CancelledError:  # the engine ends
            return
        except Exception:  # the plan stays as it is
            _log.exception("slots_not_measured")

    def _plan(self, model: LoadedModel) -> Measuring[SlotPlan | None]:
        """Measure a model, None if it is forgotten meanwhile: others wait for the turns."""
        measuring = plan_slots(model, self._programs, self._device)
        while model in self._steps:
            try:
                next(measuring)
            except StopIteration as end:
                plan: SlotPlan = end.value
                return plan
            yield
        return None

    def _replan(self, model: LoadedModel, plan: SlotPlan | None) -> None:
        if plan is not None and model in self._steps:
            self._scheduler.replan(model, plan)
