"""Continuous batching of tasks in one thread."""

import itertools
import logging
import os
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from kshot.bundle.turns import Turns
from kshot.engine.budget import Budget
from kshot.engine.device import DeviceDescription, give_back_memory, ran_out_of_memory
from kshot.engine.models import LoadedModel
from kshot.engine.pool import Job, Pool
from kshot.engine.programs import Programs
from kshot.engine.refining import Refining
from kshot.engine.slot_tasks import finish, slot_task
from kshot.engine.task import EngineResult, EngineTask, StopReason
from kshot.learner import InnerStep, SlotResult, Slots, SlotTask, StepSpec, graphed

CLOSE_SECONDS = 5.0
EXIT_FAILED = 71
TURN_SECONDS = 0.25  # in a slot that another caller waits for
IDLE_POOLS = 4  # kept with their buffers and graphs when no job is inside

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotPlan:
    """How many tasks step at once, and how many rows a launch may have."""

    slot_count: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class _PoolKey:
    model: LoadedModel
    spec: StepSpec
    widths: tuple[int, ...]
    compiled: bool


class Scheduler:
    """Runs jobs, as many at once as there are slots; callers take turns.

    Each caller's jobs run in the order they came. Where a caller waits who has fewer inside than
    another, a job of the other is paused: at once, or after `TURN_SECONDS` if there is one between
    them. So everybody's jobs soon begin, and a pause changes no number.

    A job joins at the next inner step and leaves when it completes, stops, diverges or runs out of
    time; each round takes one step of every job inside. Jobs whose tails adapt take no slot: their
    steps, which are long, come between rounds.
    """

    def __init__(self, programs: Programs, device: DeviceDescription, first: SlotPlan) -> None:
        """Start the thread that computes; models have the plan `first` until `replan`."""
        self._programs = programs
        self._device = device
        self._first = first
        self._plans: dict[LoadedModel, SlotPlan] = {}
        self._slot_count = first.slot_count
        self._waiting: Turns[Job] = Turns()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._pools: OrderedDict[_PoolKey, Pool] = OrderedDict()
        self._refining = Refining()
        self._round_began: float | None = None
        self._busy_slot_count = 0
        self._thread = threading.Thread(target=self._run_or_exit, name="inner-loop", daemon=True)
        self._thread.start()

    def submit(
        self, model: LoadedModel, task: EngineTask, budget: Budget
    ) -> "Future[EngineResult]":
        """Queue a task for a slot; the future raises what the computing raises.

        Raises `ValueError` if the task does not fit the model.
        """
        return self.submit_job(Job(model, task, budget))

    def submit_job(self, job: Job) -> "Future[EngineResult]":
        """Queue a job as `submit` does; return its answer."""
        job.task.check(job.model)
        with self._changed:
            if self._closing:
                job.answer.cancel()
                return job.answer
            self._waiting.add(job.task.caller, job)
            self._changed.notify()
        return job.answer

    def call(self, function: Callable[[], Result]) -> "Future[Result]":
        """Run a function between two rounds, in the thread that computes."""
        done: Future[Result] = Future()
        with self._changed:
            if self._closing:
                done.cancel()
            else:
                self._calls.append((function, done))
                self._changed.notify()
        return done

    def call_in_steps(self, steps: Generator[None, None, Result]) -> Result:
        """Run a generator, each of its steps between two rounds, and wait for what it returns."""

        def go_on() -> tuple[Result] | None:
            try:
                next(steps)
            except StopIteration as end:
                return (end.value,)
            return None

        while (done := self.call(go_on).result()) is None:
            pass
        return done[0]

    def replan(self, model: LoadedModel, plan: SlotPlan) -> None:
        """Give the next tasks of a model another plan; only from the thread that computes."""
        self._plans[model] = plan
        self._count_slots()

    def forget(self, model: LoadedModel) -> None:
        """Free what is kept for the next tasks of a model; only from the thread that computes."""
        self._plans.pop(model, None)
        paused = {id(pool) for pool, _ in self._paused()}
        for key, pool in list(self._pools.items()):
            if key.model is model and not pool and id(pool) not in paused:
                del self._pools[key]
        self._count_slots()

    def _plan(self, model: LoadedModel) -> SlotPlan:
        return self._plans.get(model, self._first)

    def _count_slots(self) -> None:
        plans = self._plans.values() or (self._first,)
        self._slot_count = max(plan.slot_count for plan in plans)

    def slots(self) -> tuple[int, int]:
        """Return how many slots there are, and how many had a task after the last round."""
        return self._slot_count, self._busy_slot_count

    def stalled_seconds(self) -> float:
        """Return how long the current round has taken so far, 0 between rounds."""
        began = self._round_began
        return 0.0 if began is None else time.monotonic() - began

    def close(self) -> None:
        """Cancel all jobs, waiting and running, and end the thread after its round."""
        with self._changed:
            self._closing = True
            dropped = self._waiting.clear()
            calls, self._calls = list(self._calls), deque()
            self._changed.notify()
        for job in dropped:
            if not job.answer.cancel():  # it was paused
                job.answer.set_exception(CancelledError())
        for _, done in calls:
            done.cancel()
        self._thread.join(CLOSE_SECONDS)

    def _run_or_exit(self) -> None:
        """Run; after an error that nothing expects, end the process: the front starts another.

        Without this thread every adaptation would wait for its deadline.
        """
        try:
            self._run()
        except BaseException:
            _log.exception("inner_loop_failed")
            os._exit(EXIT_FAILED)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (
                    self._closing or self._calls or self._busy() or self._refining.pause() == 0
                ):
                    self._changed.wait(self._refining.pause())
                if self._closing:
                    break
            self._round_began = time.monotonic()
            self._call()
            if self._busy():
                self._refining.give_way()
            self._stop_paused()
            self._make_way()
            self._admit()
            for key, pool in list(self._pools.items()):
                if pool:
                    self._advance(key, pool)
            if self._refining.pause() == 0:
                self._refine()
            self._round_began = None
            self._busy_slot_count = self._active()
        for jobs in (*(pool.jobs() for pool in self._pools.values()), self._refining.jobs()):
            for job in jobs:
                job.answer.set_exception(CancelledError())
        self._pools.clear()

    def _call(self) -> None:
        """Run the first function that waits for the time between rounds."""
        with self._changed:
            if not self._calls:
                return
            function, done = self._calls.popleft()
        try:
            result = function()
        except Exception as error:
            give_back_memory(error)
            done.set_exception(error)
        else:
            done.set_result(result)

    def _busy(self) -> bool:
        """Tell whether jobs wait or take inner steps."""
        return bool(self._waiting) or self._active() > 0

    def _active(self) -> int:
        return sum(map(len, self._pools.values()))

    def _stop_paused(self) -> None:
        """Answer the paused jobs whose time is over or whose callers have left."""
        for pool, job in self._paused():
            reason = job.budget.should_stop()
            if reason is not None and self._remove(job):
                pool.stop(job, reason)

    def _paused(self) -> list[tuple[Pool, Job]]:
        """Return the paused jobs and their pools."""
        with self._changed:
            return [(job.paused.pool, job) for job in self._waiting if job.paused is not None]

    def _make_way(self) -> None:
        """Pause jobs where callers with fewer inside wait: in pools that are full, and in all."""
        if not self._waiting:
            return
        # A pool that has all slots needs no look of its own.
        narrow = {
            key: pool
            for key, pool in self._pools.items()
            if pool.full and len(pool) < self._slot_count
        }

        def wants(key: _PoolKey, job: Job) -> bool:
            return key.model is job.model and key.spec == job.spec

        for key, pool in narrow.items():
            self._make_way_in([pool], partial(wants, key))
        if self._active() >= self._slot_count:
            self._make_way_in(
                list(self._pools.values()),
                lambda job: not any(wants(key, job) for key in narrow),
            )

    def _make_way_in(self, pools: Sequence[Pool], may_join: Callable[[Job], bool]) -> None:
        """Pause a job of the caller with the most in some pools, if one with fewer waits for it."""
        stays = sorted((stay for pool in pools for stay in pool.stays()), key=lambda stay: stay[0])
        inside = Counter(job.task.caller for _, job in stays)
        most = max(inside.values())
        joined, longest = next(stay for stay in stays if inside[stay[1].task.caller] == most)
        long = time.perf_counter() - joined > TURN_SECONDS

        def waits(caller: str) -> bool:
            first, fewer = self._waiting.first(caller), most - inside[caller]
            return first.task.step_count > 0 and fewer >= (1 if long else 2) and may_join(first)

        with self._changed:
            if self._waiting.next(waits) is None:
                return
        pool = next(pool for pool in pools if longest in pool.jobs())
        try:
            pool.pause(longest)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            give_back_memory(error)
            return  # it goes on, and the next round tries again
        with self._changed:
            if not self._closing:
                self._waiting.add(longest.task.caller, longest, first=True)
                return
        longest.answer.set_exception(CancelledError())

    def _admit(self) -> None:
        """Give free slots to waiting jobs; callers take turns, unless their pool is full."""
        shut_out = set[str]()
        while (job := self._next(shut_out)) is not None:
            clock = time.perf_counter()
            try:
                if job.task.step_count == 0:
                    if self._take(job):
                        self._finish_at_once(job, clock)
                    return  # one a round: the others take their steps in between
                if job.paused is not None:
                    if job.paused.pool.full:
                        shut_out.add(job.task.caller)
                    elif self._remove(job):
                        job.paused.pool.go_on(job)
                    continue
                key, steps = self._kind(job)
                if key in self._pools and self._pools[key].full:
                    shut_out.add(job.task.caller)
                    continue
                if not self._take(job):
                    continue
                started = slot_task(job.model, job.task)
                self._pool(key, steps, started).join(job, started, clock)
            except Exception as error:
                give_back_memory(error)
                if job.answer.running() or self._take(job):
                    job.answer.set_exception(error)

    def _next(self, shut_out: Set[str]) -> Job | None:
        """Return the first job of the caller whose turn it is; those without steps need no slot."""
        free = self._active() < self._slot_count

        def may_start(caller: str) -> bool:
            if caller in shut_out:
                return False
            return free or self._waiting.first(caller).task.step_count == 0

        with self._changed:
            caller = self._waiting.next(may_start)
            return None if caller is None else self._waiting.first(caller)

    def _finish_at_once(self, job: Job, clock: float) -> None:
        """Answer a task without steps: its head comes from the support set alone.

        Where a tail shall adapt behind the head, the answer waits for it.
        """
        started = slot_task(job.model, job.task)
        start = started.state.parameters
        finished = finish(
            job.model,
            job.task.way,
            started,
            SlotResult(start[0], start.new_zeros(0), width=0),
            StopReason.COMPLETED,
            began=clock,
            compute_path=self._device.compute_path(compiled=False),
        )
        if job.task.tail is not None and finished.stop_reason is StopReason.COMPLETED:
            self._refining.add(job, finished)
        else:
            job.answer.set_result(finished)

    def _take(self, job: Job) -> bool:
        """Take a caller's first job from the queue; tell whether its answer is still wanted."""
        return self._remove(job) and job.answer.set_running_or_notify_cancel()

    def _remove(self, job: Job) -> bool:
        """Take a job from the queue; tell whether it was there: else it was cancelled meanwhile."""
        with self._changed:
            return self._waiting.remove(job.task.caller, job)

    def _advance(self, key: _PoolKey, pool: Pool) -> None:
        try:
            pool.advance()
        except Exception as error:  # the state of the buffers is unknown
            _log.exception("step_failed")
            del self._pools[key]
            # The plain step takes over, unless it was memory that failed.
            if key.compiled and not ran_out_of_memory(error):
                for width in key.widths:
                    self._programs.refuse(key.spec.of_tasks(width))
            give_back_memory(error)
            paused = [job for its_pool, job in self._paused() if its_pool is pool]
            for job in (*pool.jobs(), *(job for job in paused if self._remove(job))):
                job.answer.set_exception(error)

    def _refine(self) -> None:
        try:
            self._refining.advance()
        except Exception as error:
            _log.exception("refining_failed")
            give_back_memory(error)
            self._refining.give_up()

    def _kind(self, job: Job) -> tuple[_PoolKey, Mapping[int, InnerStep]]:
        """Return the key of a job's pool and its compiled steps by width, if there are any."""
        spec, plan = job.spec, self._plan(job.model)
        widths = (1,) if job.task.deterministic else plan.widths
        steps = {
            width: self._programs.get(spec.of_tasks(width), job.model.name) for width in widths
        }
        compiled = {width: step for width, step in steps.items() if step is not None}
        if 1 in compiled:
            return _PoolKey(job.model, spec, tuple(compiled), compiled=True), compiled
        return _PoolKey(job.model, spec, widths, compiled=False), {}

    def _pool(self, key: _PoolKey, steps: Mapping[int, InnerStep], like: SlotTask) -> Pool:
        """Return the pool of a key; make one for tasks like the one given if there is none."""
        if key not in self._pools:
            self._forget_idle()
            steps = steps or dict.fromkeys(key.widths, key.spec.build())
            slots = Slots(
                lambda width: graphed(steps[width], self._device.device),
                key.widths,
                self._plan(key.model).slot_count,
                key.model.bundle.manifest.limits.max_step_count,
                like,
            )
            compute_path = self._device.compute_path(compiled=key.compiled)
            self._pools[key] = Pool(slots, compute_path)
        self._pools.move_to_end(key)
        return self._pools[key]

    def _forget_idle(self) -> None:
        paused = {id(pool) for pool, _ in self._paused()}
        idle = [key for key, pool in self._pools.items() if not pool and id(pool) not in paused]
        for key in itertools.islice(idle, max(0, len(idle) + 1 - IDLE_POOLS)):
            del self._pools[key]
