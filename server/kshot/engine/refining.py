"""The jobs whose tails adapt behind their heads."""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace

import torch

from kshot.bundle import TAIL_MIX
from kshot.engine.device import give_back_memory
from kshot.engine.pool import Job
from kshot.engine.task import EngineResult
from kshot.learner import (
    Refinement,
    RefinementTask,
    logits_of,
    mixed_logits,
    refine,
    split_maps,
)

ANSWER_STEPS = 1  # the head's answer is there: only a step that runs must end before it is sent

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Refined:
    """A job with the result of its head; the steps of its tail exist from the first on."""

    job: Job
    head: EngineResult
    seconds: float = 0.0
    steps: "Generator[None, None, Refinement] | None" = field(default=None)


class Refining:
    """Jobs that adapt one after another, first come first served; those behind hold no buffers.

    A step is long beside an inner step: after each one, other jobs get as much time as it took.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Measure steps by a clock."""
        self._clock = clock
        self._jobs: deque[_Refined] = deque()
        self._due = 0.0

    def __len__(self) -> int:
        """Count the jobs."""
        return len(self._jobs)

    def jobs(self) -> Iterator[Job]:
        """Go through the jobs."""
        return (refined.job for refined in self._jobs)

    def add(self, job: Job, head: EngineResult) -> None:
        """Queue a job whose head is made."""
        self._jobs.append(_Refined(job, head))

    def give_up(self) -> None:
        """Answer all jobs with their heads."""
        while self._jobs:
            refined = self._jobs.popleft()
            if not refined.job.answer.done():
                refined.job.answer.set_result(refined.head)

    def due(self, *, alone: bool) -> bool:
        """Tell whether a step comes next; `alone` means that no other job could compute."""
        return bool(self._jobs) and (alone or self._clock() >= self._due)

    def advance(self) -> None:
        """Answer the jobs that stop, and take one step of the first of the others."""
        for refined in list(self._jobs):
            reason = refined.job.budget.should_stop(ANSWER_STEPS)
            if reason is not None:
                self._jobs.remove(refined)
                refined.job.answer.set_result(replace(refined.head, stop_reason=reason))
        if not self._jobs:
            return
        first, began = self._jobs[0], self._clock()
        result: EngineResult | None = None
        try:
            result = _step(first)
        except Exception as error:
            _log.exception("tail_step_failed")
            self._jobs.popleft()
            first.steps = None  # it holds the tensors
            give_back_memory(error)
            first.job.answer.set_exception(error)
        took = self._clock() - began
        first.seconds += took
        self._due = began + 2 * took
        if result is not None:
            self._jobs.popleft()
            seconds = result.compute_seconds + first.seconds
            first.job.answer.set_result(replace(result, compute_seconds=seconds))


def _step(refined: _Refined) -> EngineResult | None:
    """Take a step; return the result after the last one."""
    if refined.steps is None:
        refined.steps = _steps(refined)
    try:
        next(refined.steps)
    except StopIteration as end:
        return _joined(refined, end.value)
    return None


def _steps(refined: _Refined) -> Generator[None, None, Refinement]:
    """Move a task to the device of its tail."""
    model, task = refined.job.model, refined.job.task
    head_logits = refined.head.held_out_logits
    assert model.tail is not None  # noqa: S101 -- the task was checked
    assert task.tail is not None  # noqa: S101 -- the job is here for it
    assert head_logits is not None  # noqa: S101 -- the head is from the support set
    maps = split_maps(model.tail.network.spec, torch.from_numpy(task.support))
    refinement_task = RefinementTask(
        maps=torch.cat([maps[None], torch.from_numpy(task.tail.crop_maps)]).to(model.device),
        classes=torch.from_numpy(task.classes).to(model.device),
        way=task.way,
        head_logits=torch.from_numpy(head_logits).to(model.device),
        step_count=task.tail.step_count,
        fold_step_count=task.tail.fold_step_count,
        seed=task.seed,
    )
    return refine(model.tail.network, model.tail.parameters, refinement_task)


def _joined(refined: _Refined, refinement: Refinement) -> EngineResult:
    """Add a tail to the result of a head; a tail without weight leaves it as it is."""
    head, model, task = refined.head, refined.job.model, refined.job.task
    tail_logits, held_out = refinement.support_logits, refinement.held_out_logits
    if tail_logits is None:
        return head
    parameters = {
        name: torch.from_numpy(array).to(model.device)[None]
        for name, array in head.parameters.items()
    }
    support = torch.from_numpy(task.support).to(model.device)[None]
    with torch.no_grad():
        logits, _ = logits_of(model.initialization.network, parameters, support)
    answers = mixed_logits(logits[0], tail_logits, refinement.parameters[TAIL_MIX]).argmax(dim=1)
    right = int((answers.cpu().numpy() == task.classes).sum())
    tail = {name: value.cpu().numpy() for name, value in refinement.parameters.items()}
    return replace(
        head,
        parameters={**head.parameters, **tail},
        support_accuracy=right / len(task.classes),
        held_out_logits=head.held_out_logits if held_out is None else held_out.cpu().numpy(),
    )
