"""The slots of one kind of step, and the jobs in them."""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from kshot.engine.budget import Budget
from kshot.engine.models import LoadedModel
from kshot.engine.slot_tasks import finish
from kshot.engine.task import EngineResult, EngineTask, StopReason
from kshot.learner import Slots, SlotTask


@dataclass(eq=False)
class Job:
    """A task on its way through the engine, and the future of its result."""

    model: LoadedModel
    task: EngineTask
    budget: Budget
    answer: "Future[EngineResult]" = field(default_factory=Future)


@dataclass
class _Running:
    job: Job
    started: SlotTask
    clock: float


class Pool:
    """Slots and the jobs inside; a job leaves when it completes, stops or diverges."""

    def __init__(self, slots: Slots, compute_path: str) -> None:
        self.compute_path = compute_path
        self._slots = slots
        self._running: dict[int, _Running] = {}

    def __len__(self) -> int:
        """Count the jobs inside."""
        return len(self._running)

    @property
    def full(self) -> bool:
        """Tell whether no job can join."""
        return self._slots.full

    def jobs(self) -> Iterator[Job]:
        """Go through the jobs inside."""
        return (running.job for running in self._running.values())

    def join(self, job: Job, started: SlotTask, clock: float) -> None:
        """Give a job a slot; its computing began when `time.perf_counter` showed `clock`."""
        self._running[self._slots.join(started)] = _Running(job, started, clock)

    def advance(self) -> None:
        """Take one step of every job that may go on, and let the others and the finished leave."""
        for handle, running in list(self._running.items()):
            reason = running.job.budget.should_stop()
            if reason is not None:
                self._leave(handle, reason)
        if not self._running:
            return
        losses = self._slots.advance()
        done = set(self._slots.finished())
        for handle in list(self._running):
            loss = losses.get(handle, 0.0)
            if handle in done or loss - loss != 0.0:  # infinite, or not a number
                self._leave(handle, StopReason.COMPLETED)

    def _leave(self, handle: int, reason: StopReason) -> None:
        running = self._running[handle]
        result = self._slots.leave(handle)  # if this fails, the job still counts as inside
        del self._running[handle]
        job = running.job
        try:
            finished = finish(
                job.model,
                job.task.way,
                running.started,
                result,
                reason,
                began=running.clock,
                compute_path=self.compute_path,
            )
        except Exception as error:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(finished)
