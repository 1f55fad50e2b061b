"""Many adaptations that step together, as in an engine whose slots are full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kshot.bench.speed.contenders import slot_task
from kshot.bench.speed.timed_tasks import AdaptTask
from kshot.bench.speed.timing import percentiles, ratio
from kshot.learner import InnerStep, SlotResult, Slots

__all__ = ["Stacked", "stacked_loop"]

Stack = Callable[[], Sequence[SlotResult]]


@dataclass(frozen=True)
class Stacked:
    """Milliseconds of each round in which so many tasks adapted together."""

    tasks: int
    samples: list[float]

    @property
    def adaptations_per_second(self) -> float:
        """Return the rate of the middle round."""
        return self.tasks * 1e3 / percentiles(self.samples).p50

    @property
    def ms_per_task(self) -> float:
        """Return a task's share of the middle round."""
        return percentiles(self.samples).p50 / self.tasks

    def ratio_vs_alone(self, alone: Sequence[float]) -> float:
        """Return how many times as many adaptations are done as one after another."""
        return self.tasks * ratio(alone, self.samples)

    def document(self, alone: Sequence[float]) -> dict[str, object]:
        """Lay out the samples for JSON, beside those of one task; ``ms`` is of all together."""
        return {
            "tasks": self.tasks,
            "ms": percentiles(self.samples).document(),
            "ms_per_task": self.ms_per_task,
            "adaptations_per_second": self.adaptations_per_second,
            "ratio_vs_alone": self.ratio_vs_alone(alone),
        }


def stacked_loop(task: AdaptTask, step: InnerStep, tasks: int) -> Stack:
    """Adapt so many copies of a task: they join, step and leave; step of that many tasks."""
    most = task.manifest.limits.max_step_count
    slots = Slots(lambda _width: step, (tasks,), tasks, most, slot_task(task))

    def adapt() -> Sequence[SlotResult]:
        handles = [slots.join(slot_task(task)) for _ in range(tasks)]
        for _ in range(task.size.step_count):
            slots.advance()
        results = [slots.leave(handle) for handle in handles]
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)
        return results

    return adapt
