"""The jobs whose tails adapt behind their heads."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from kshot.bundle import TAIL_EXAMPLES, TAIL_FOLDS, TAIL_MIX
from kshot.engine.device import give_back_memory
from kshot.engine.pool import Job
from kshot.engine.task import EngineResult, EngineTask
from kshot.learner import (
    Refinement,
    RefinementTask,
    logits_of,
    mixed_logits,
    refine,
    split_maps,
)

ANSWER_STEPS = 1  # the head's answer is there: only a step that runs must end before it is sent
OLDEST_EVERY = 4  # steps
MOST_STARTED = 4  # jobs that hold the buffers of their tails, if all are of one caller
MOST_BUFFERED = 8  # of several callers

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Refined:
    """A job with the result of its head; the steps of its tail exist from the first on."""

    job: Job
    head: EngineResult
    step_count: int
    seconds: float = 0.0
    steps: "Generator[None, None, Refinement] | None" = field(default=None)

    @property
    def caller(self) -> str:
        """Return who asks for it."""
        return self.job.task.caller

    def remaining(self) -> int:
        """Return how many examples its steps have still to take."""
        return self.step_count * min(len(self.job.task.classes), TAIL_EXAMPLES)


class Refining:
    """Jobs whose tails adapt, a step at a time; callers take turns.

    Of a caller's jobs, the one with the least remaining work comes next, so that a short one passes
    a long one; every fourth step is his oldest job's. While `MOST_STARTED` hold buffers, no further
    one of a caller who has started any begins. A step is long beside an
    inner step: after each one, other jobs that compute get as much time as it took.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Measure steps by a clock."""
        self._clock = clock
        self._jobs: list[_Refined] = []
        self._due = 0.0
        self._last: dict[str, int] = {}  # turns of the callers who have jobs
        self._counts: Counter[str] = Counter()  # their steps
        self._turn = 0
        self._gives_way = False

    def __len__(self) -> int:
        """Count the jobs."""
        return len(self._jobs)

    def jobs(self) -> Iterator[Job]:
        """Go through the jobs."""
        return (refined.job for refined in self._jobs)

    def add(self, job: Job, head: EngineResult) -> None:
        """Queue a job whose head is made."""
        self._jobs.append(_Refined(job, head, _count_steps(job.task)))

    def give_way(self) -> None:
        """Note that other jobs compute: they get their time before the next step."""
        self._gives_way = True

    def pause(self) -> float | None:
        """Return the seconds until a step comes next, 0 when it is due, None without a job."""
        if not self._jobs:
            return None
        return max(0.0, self._due - self._clock()) if self._gives_way else 0.0

    def advance(self) -> None:
        """Answer the jobs that stop, and take one step of one of the others."""
        for refined in list(self._jobs):
            reason = refined.job.budget.should_stop(ANSWER_STEPS)
            if reason is not None:
                self._answer(refined, replace(refined.head, stop_reason=reason))
        if not self._jobs:
            return
        refined, began = self._next(), self._clock()
        result: EngineResult | None = None
        try:
            result = _step(refined)
        except Exception as error:
            _log.exception("tail_step_failed")
            refined.steps = None  # it holds the tensors
            give_back_memory(error)
            if isinstance(error, torch.AcceleratorError):  # the process must end
                self._remove(refined)
                refined.job.answer.set_exception(error)
                return
            result = replace(refined.head, tail_failed=True)
        took = self._clock() - began
        refined.step_count -= 1
        refined.seconds += took
        self._due, self._gives_way = began + 2 * took, False
        if result is not None:
            self._answer(refined, result)

    def give_up(self) -> None:
        """Answer all jobs with their heads."""
        for refined in list(self._jobs):
            self._answer(refined, replace(refined.head, tail_failed=True))

    def _next(self) -> _Refined:
        started = [refined for refined in self._jobs if refined.steps is not None]
        choice = started if len(started) >= MOST_BUFFERED else self._jobs
        callers = dict.fromkeys(refined.caller for refined in choice)
        caller = min(callers, key=lambda each: self._last.get(each, 0))  # the first of equals
        own = [refined for refined in choice if refined.caller == caller]
        own_started = [refined for refined in own if refined.steps is not None]
        if own_started and len(started) >= MOST_STARTED:
            own = own_started
        self._turn += 1
        self._last[caller] = self._turn
        self._counts[caller] += 1
        if self._counts[caller] % OLDEST_EVERY == 0:  # however many short ones come
            return own[0]
        return min(own, key=_Refined.remaining)

    def _remove(self, refined: _Refined) -> None:
        self._jobs.remove(refined)
        if all(other.caller != refined.caller for other in self._jobs):
            self._last.pop(refined.caller, None)
            self._counts.pop(refined.caller, None)

    def _answer(self, refined: _Refined, result: EngineResult) -> None:
        """Let a job leave; its tail's steps count among its seconds."""
        self._remove(refined)
        seconds = result.compute_seconds + refined.seconds
        refined.job.answer.set_result(replace(result, compute_seconds=seconds))


def _count_steps(task: EngineTask) -> int:
    """Return how often a tail is stepped at most, about: each pass over all examples is rounded."""
    assert task.tail is not None  # noqa: S101 -- the job is here for it
    further = (len(task.classes) - 1) // TAIL_EXAMPLES  # steps of a pass
    if not task.tail.fold_step_count:
        return task.tail.step_count + 2 * further
    folds = min(TAIL_FOLDS, int(np.bincount(task.classes).min()))
    return task.tail.step_count + folds * task.tail.fold_step_count + 3 * further


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
