"""The slots of one kind of step, and the jobs in them."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property

from kshot.engine.budget import Budget
from kshot.engine.models import LoadedModel
from kshot.engine.slot_tasks import finish, step_spec
from kshot.engine.task import EngineResult, EngineTask, StopReason
from kshot.learner import SlotProgress, SlotResult, Slots, SlotTask, StepSpec


@dataclass(eq=False)
class Job:
    """A task on its way through the engine, and the future of its result.

    `losses` gets the loss of each step where somebody reads along. `paused` is there while it waits
    for a slot to go on in.
    """

    model: LoadedModel
    task: EngineTask
    budget: Budget
    losses: list[float] | None = None
    answer: "Future[EngineResult]" = field(default_factory=Future)
    paused: "PausedJob | None" = None

    @cached_property
    def spec(self) -> StepSpec:
        """Return the step that the task needs."""
        return step_spec(self.model, self.task)


@dataclass(frozen=True)
class PausedJob:
    """How far a job has come in a pool, and the seconds that it took."""

    pool: "Pool"
    started: SlotTask
    progress: SlotProgress
    seconds: float


@dataclass
class _Running:
    """A job that began, without its pauses, when `time.perf_counter` showed `clock`.

    It has been in its slot since it showed `joined`.
    """

    job: Job
    started: SlotTask
    clock: float
    joined: float = field(default_factory=time.perf_counter)


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

    def stays(self) -> Iterator[tuple[float, Job]]:
        """Go through the jobs inside, with when each took its slot, by `time.perf_counter`."""
        return ((running.joined, running.job) for running in self._running.values())

    def join(self, job: Job, started: SlotTask, clock: float) -> None:
        """Give a job a slot; its computing began when `time.perf_counter` showed `clock`."""
        self._running[self._slots.join(started)] = _Running(job, started, clock)

    def pause(self, job: Job) -> None:
        """Take a job's slot until `go_on`."""
        handle = next(handle for handle, each in self._running.items() if each.job is job)
        progress = self._slots.pause(handle)  # if this fails, the job still counts as inside
        running = self._running.pop(handle)
        seconds = time.perf_counter() - running.clock
        job.paused = PausedJob(self, running.started, progress, seconds)

    def go_on(self, job: Job) -> None:
        """Give a paused job a slot again; it goes on where it was."""
        assert job.paused is not None  # noqa: S101 -- the caller has looked
        paused, job.paused = job.paused, None
        handle = self._slots.join(paused.started, paused.progress)
        clock = time.perf_counter() - paused.seconds
        self._running[handle] = _Running(job, paused.started, clock)

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
        for handle, running in list(self._running.items()):
            loss = losses.get(handle, 0.0)
            if running.job.losses is not None and handle in losses:
                running.job.losses.append(loss)
            if handle in done or loss - loss != 0.0:  # infinite, or not a number
                self._leave(handle, StopReason.COMPLETED)

    def _leave(self, handle: int, reason: StopReason) -> None:
        running = self._running[handle]
        result = self._slots.leave(handle)  # if this fails, the job still counts as inside
        del self._running[handle]
        self._answer(running.job, running.started, result, reason, running.clock)

    def stop(self, job: Job, reason: StopReason) -> None:
        """Answer a paused job with what it has."""
        assert job.paused is not None  # noqa: S101 -- the caller has looked
        paused, job.paused = job.paused, None
        clock = time.perf_counter() - paused.seconds
        self._answer(job, paused.started, paused.progress.result, reason, clock)

    def _answer(
        self, job: Job, started: SlotTask, result: SlotResult, reason: StopReason, clock: float
    ) -> None:
        try:
            finished = finish(
                job.model,
                job.task.way,
                started,
                result,
                reason,
                began=clock,
                compute_path=self.compute_path,
            )
        except Exception as error:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(finished)
