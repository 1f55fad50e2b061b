"""The scheduler in this process, uncompiled: jobs in, answers out."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from kshot.bundle import Head, Preconditioner, Scope
from kshot.engine import scheduler as scheduler_module
from kshot.engine.budget import Budget
from kshot.engine.device import choose_device
from kshot.engine.models import LoadedModel
from kshot.engine.pool import Job, Pool
from kshot.engine.programs import Programs
from kshot.engine.scheduler import EXIT_FAILED, Scheduler, SlotPlan
from kshot.engine.task import EngineTask, StopReason
from kshot.learner import Slots

ENDLESS = 20_000
PATIENCE = 240  # seconds: ends a test that hangs, on the slowest machine
MakeScheduler = Callable[..., Scheduler]
Adapt = Callable[[LoadedModel, EngineTask], Any]


@pytest.fixture
def make_scheduler(model: LoadedModel) -> Iterator[MakeScheduler]:
    """Make schedulers of some slots and widths."""
    made: list[Scheduler] = []

    def make(slot_count: int = 2, widths: tuple[int, ...] = (1,)) -> Scheduler:
        device = choose_device("cpu")
        plan = SlotPlan(slot_count, widths)
        scheduler = Scheduler(Programs(None, device.device), device, plan)
        scheduler.call(lambda: scheduler.replan(model, plan)).result(PATIENCE)
        made.append(scheduler)
        return scheduler

    yield make
    for scheduler in made:
        scheduler.close()


def _task(seed: int = 0, way: int = 3, shot: int = 2, **changed: object) -> EngineTask:
    support = np.random.default_rng(seed).random((way * shot, 1, 12, 12), dtype=np.float32)
    task = EngineTask(
        support=support,
        classes=np.repeat(np.arange(way), shot),
        way=way,
        step_count=10,
        learning_rate=0.001,
        batch_size=5,
        preconditioner=Preconditioner.CARRIED,
        head=Head.TRAINED,
        scope=Scope.ALL,
        seed=seed,
    )
    return replace(task, **cast(dict[str, Any], changed))


def _budget() -> Budget:
    return Budget(None, allow_partial=False)


@pytest.mark.parametrize(
    ("slot_count", "widths"), [(1, (1,)), (2, (1,)), (2, (1, 2)), (4, (1, 4)), (8, (4,))]
)
def test_any_company_and_any_number_of_slots_give_what_the_plain_loop_gives(
    make_scheduler: MakeScheduler,
    model: LoadedModel,
    reference: Adapt,
    slot_count: int,
    widths: tuple[int, ...],
) -> None:
    scheduler = make_scheduler(slot_count, widths)
    tasks = [
        _task(seed, way, shot, step_count=steps, preconditioner=preconditioner, head=head)
        for seed, (way, shot, steps, preconditioner, head) in enumerate(
            [
                (5, 1, 12, Preconditioner.CARRIED, Head.TRAINED),
                (2, 4, 7, Preconditioner.FRESH, Head.ZERO),
                (3, 20, 9, Preconditioner.CARRIED, Head.PROTOTYPE),
                (7, 2, 5, Preconditioner.SGD, Head.TRAINED),
                (4, 1, 11, Preconditioner.FROZEN, Head.TRAINED),
                (5, 2, 3, Preconditioner.CARRIED, Head.TRAINED),
            ]
        )
    ]

    answers = [scheduler.submit(model, task, _budget()) for task in tasks]

    for task, answer in zip(tasks, answers, strict=True):
        got, wanted = answer.result(PATIENCE), reference(model, task)
        assert (got.stop_reason, got.step_count) == (StopReason.COMPLETED, task.step_count)
        assert got.slot_bucket in widths
        assert got.support_losses == pytest.approx(wanted.support_losses, rel=1e-3, abs=1e-5)
        for name, array in wanted.parameters.items():
            np.testing.assert_allclose(got.parameters[name], array, rtol=0, atol=2e-4)


def test_a_short_job_passes_a_long_one_and_waits_for_no_more(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler(2)
    budget = _budget()
    long = scheduler.submit(model, _task(step_count=ENDLESS), budget)

    for seed in range(3):
        assert scheduler.submit(model, _task(seed, step_count=2), _budget()).result(PATIENCE)

    assert not long.done()
    budget.cancelled.set()
    assert long.result(PATIENCE).stop_reason is StopReason.CANCELLED
    assert not long.result().parameters


def test_who_came_first_is_served_first(make_scheduler: MakeScheduler, model: LoadedModel) -> None:
    """With one slot, of jobs of several kinds."""
    scheduler = make_scheduler(1)
    budget = _budget()
    scheduler.submit(model, _task(step_count=ENDLESS), budget)
    order: list[int] = []
    jobs = [
        scheduler.submit(model, _task(seed, way=2 + 2 * (seed % 3), step_count=1), _budget())
        for seed in range(6)
    ]
    for seed, job in enumerate(jobs):
        job.add_done_callback(lambda _done, seed=seed: order.append(seed))

    budget.cancelled.set()

    for job in jobs:
        job.result(PATIENCE)
    assert order == list(range(6))


def test_another_caller_does_not_wait_for_endless_jobs(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    """Of one caller they are paused at once; of many, after their turns."""
    scheduler, budget = make_scheduler(2), _budget()
    endless = _task(step_count=ENDLESS, caller="many")
    jobs = [scheduler.submit(model, endless, budget) for _ in range(4)]
    assert scheduler.submit(model, _task(caller="few"), _budget()).result(PATIENCE)
    others = [
        scheduler.submit(model, replace(endless, caller=f"other{number}"), budget)
        for number in range(3)
    ]

    assert scheduler.submit(model, _task(caller="quiet"), _budget()).result(PATIENCE)

    assert not any(job.done() for job in (*jobs, *others))
    budget.cancelled.set()
    for job in (*jobs, *others):
        assert job.result(PATIENCE).stop_reason is StopReason.CANCELLED


def test_nobody_waits_for_the_slots_of_another_model(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    """One has a slot that two callers want, and leaves three free; of those they take turns."""
    manifest = replace(model.bundle.manifest, name="other")
    other = replace(model, bundle=replace(model.bundle, manifest=manifest))
    scheduler, budget = make_scheduler(4), _budget()
    scheduler.call(lambda: scheduler.replan(other, SlotPlan(1, (1,)))).result(PATIENCE)
    jobs = [
        scheduler.submit(other, _task(step_count=ENDLESS, caller=name), budget)
        for name in ("first", "second")
    ]

    assert scheduler.submit(model, _task(caller="quiet"), _budget()).result(PATIENCE)
    assert scheduler.submit(other, _task(caller="quiet"), _budget()).result(PATIENCE)

    assert not any(job.done() for job in jobs)
    budget.cancelled.set()
    for job in jobs:
        assert job.result(PATIENCE).stop_reason is StopReason.CANCELLED


@pytest.mark.parametrize("preconditioner", [Preconditioner.CARRIED, Preconditioner.FROZEN])
def test_pauses_change_no_number(
    make_scheduler: MakeScheduler,
    model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    preconditioner: Preconditioner,
) -> None:
    tasks = [
        _task(seed, preconditioner=preconditioner, caller=str(seed), step_count=15, shot=1 + seed)
        for seed in range(4)
    ]
    alone = [make_scheduler(1).submit(model, task, _budget()).result(PATIENCE) for task in tasks]
    monkeypatch.setattr(scheduler_module, "TURN_SECONDS", 0.0)
    pauses, pause = list[str](), Pool.pause
    monkeypatch.setattr(
        Pool, "pause", lambda pool, job: (pauses.append(job.task.caller), pause(pool, job))[1]
    )
    scheduler = make_scheduler(2)

    jobs = [scheduler.submit(model, task, _budget()) for task in tasks]

    for job, wanted in zip(jobs, alone, strict=True):
        got = job.result(PATIENCE)
        assert (got.step_count, got.stop_reason) == (15, StopReason.COMPLETED)
        assert got.support_losses == wanted.support_losses
        for name, array in {**wanted.parameters, **wanted.statistics}.items():
            np.testing.assert_array_equal({**got.parameters, **got.statistics}[name], array)
    assert len(pauses) > 4


def test_a_paused_job_answers_in_time(
    make_scheduler: MakeScheduler, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the steps that it took, though it has no slot when its time is over."""
    monkeypatch.setattr(scheduler_module, "TURN_SECONDS", 0.0)
    scheduler, paused, pause = make_scheduler(1), threading.Event(), Pool.pause
    early, late = Budget(None, allow_partial=True), _budget()

    def watched(pool: Pool, job: Job) -> None:
        pause(pool, job)
        monkeypatch.setattr(scheduler_module, "TURN_SECONDS", 1e9)
        early.seconds_left = 0.0
        paused.set()

    monkeypatch.setattr(Pool, "pause", watched)
    first = scheduler.submit(model, _task(step_count=ENDLESS, caller="x"), early)
    second = scheduler.submit(model, _task(step_count=ENDLESS, caller="y"), late)

    got = first.result(PATIENCE)
    assert paused.is_set()
    assert got.stop_reason is StopReason.TIME_BUDGET
    assert got.step_count == len(got.support_losses) < ENDLESS
    assert not second.done()
    late.cancelled.set()


def test_a_pause_that_finds_no_memory_ends_nothing(
    make_scheduler: MakeScheduler, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job goes on, and makes way once there is some."""
    left, pause = [3], Pool.pause

    def scarce(pool: Pool, job: Job) -> None:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        pause(pool, job)

    monkeypatch.setattr(scheduler_module, "TURN_SECONDS", 0.0)
    monkeypatch.setattr("kshot.engine.scheduler.os._exit", lambda _: None)
    monkeypatch.setattr(Pool, "pause", scarce)
    scheduler, budget = make_scheduler(1), _budget()
    long = scheduler.submit(model, _task(step_count=ENDLESS, caller="x"), budget)

    assert scheduler.submit(model, _task(caller="y"), _budget()).result(PATIENCE)

    assert not long.done()
    budget.cancelled.set()
    assert long.result(PATIENCE).stop_reason is StopReason.CANCELLED


def test_a_closed_scheduler_answers_paused_jobs(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler(1)
    jobs = [
        scheduler.submit(model, _task(step_count=ENDLESS, caller=caller), _budget())
        for caller in "xy"
    ]
    assert scheduler.submit(model, _task(caller="z"), _budget()).result(PATIENCE)

    scheduler.close()

    for job in jobs:
        with pytest.raises(CancelledError):
            job.result(PATIENCE)


def test_a_job_that_nobody_waits_for_does_not_run(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler(1)
    budget = _budget()
    scheduler.submit(model, _task(step_count=ENDLESS), budget)
    unwanted = scheduler.submit(model, _task(step_count=ENDLESS), _budget())

    assert unwanted.cancel()
    budget.cancelled.set()

    assert scheduler.submit(model, _task(), _budget()).result(PATIENCE).step_count == 10


def test_a_poisoned_neighbour_diverges_alone(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    alone = make_scheduler(4, (4,)).submit(model, _task(step_count=200), _budget()).result(PATIENCE)
    scheduler = make_scheduler(4, (4,))
    steady = scheduler.submit(model, _task(step_count=200), _budget())

    poison = np.full((6, 1, 12, 12), np.nan, np.float32)
    poisoned = [
        scheduler.submit(model, _task(seed, support=poison), _budget()) for seed in range(3)
    ]

    for job in poisoned:
        assert job.result(PATIENCE).stop_reason is StopReason.DIVERGED
        assert job.result().step_count == 1
        assert not job.result().parameters
    for name, array in alone.parameters.items():
        np.testing.assert_array_equal(steady.result(PATIENCE).parameters[name], array)


def test_a_task_without_steps_has_the_head_of_its_class_means(
    make_scheduler: MakeScheduler, model: LoadedModel, reference: Adapt
) -> None:
    """It needs no step of its kind, and leaves the slots to others."""
    scheduler = make_scheduler(2)
    task = _task(way=4, step_count=0, head=Head.PROTOTYPE)

    got, wanted = scheduler.submit(model, task, _budget()).result(PATIENCE), reference(model, task)

    assert (got.stop_reason, got.step_count) == (StopReason.COMPLETED, 0)
    assert (got.support_losses, got.slot_bucket) == ((), 0)
    assert got.support_accuracy == pytest.approx(wanted.support_accuracy)
    for name, array in {**wanted.parameters, **wanted.statistics}.items():
        np.testing.assert_array_equal({**got.parameters, **got.statistics}[name], array)
    with pytest.raises(ValueError, match="step_count: expected at least 1 with head trained"):
        _task(step_count=0)


def test_a_deterministic_job_shares_no_launch(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler(2, (2,))

    shared = scheduler.submit(model, _task(), _budget())
    alone = scheduler.submit(model, _task(deterministic=True), _budget())

    assert (shared.result(PATIENCE).slot_bucket, alone.result(PATIENCE).slot_bucket) == (2, 1)


def test_a_partial_answer_has_the_steps_done(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    """By its clock each step takes a second, and the answer as long as four."""
    now = itertools.count()
    budget = Budget(20, allow_partial=True, clock=lambda: float(next(now)))

    answer = make_scheduler().submit(model, _task(step_count=ENDLESS), budget).result(PATIENCE)

    assert answer.stop_reason is StopReason.TIME_BUDGET
    assert answer.step_count == len(answer.support_losses) == 15
    assert answer.parameters


def test_cancelling_ends_the_loop_before_its_next_step(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    """The loop looks at its clock before each step; the caller leaves at the twelfth look."""
    looks = itertools.count()

    def clock() -> float:
        look = next(looks)
        if look == 12:
            budget.cancelled.set()
        return float(look)

    budget = Budget(None, allow_partial=False, clock=clock)
    answer = make_scheduler().submit(model, _task(step_count=ENDLESS), budget).result(PATIENCE)

    assert answer.stop_reason is StopReason.CANCELLED
    assert answer.step_count == 11


def test_parameters_that_end_infinite_are_divergence(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    """The loss of a step is taken before its update, so the last update is checked by itself."""
    task = _task(step_count=1, learning_rate=1e300, preconditioner=Preconditioner.SGD)

    answer = make_scheduler().submit(model, task, _budget())

    assert answer.result(PATIENCE).stop_reason is StopReason.DIVERGED
    assert np.isfinite(answer.result().support_losses).all()
    assert not answer.result().parameters


def test_a_step_that_fails_fails_its_jobs_and_no_others(
    make_scheduler: MakeScheduler, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(2)
    advance = Slots.advance
    broken = threading.Event()
    broken.set()

    def fail(slots: Slots) -> dict[int, float]:
        if broken.is_set():
            raise torch.OutOfMemoryError("no memory")
        return advance(slots)

    monkeypatch.setattr(Slots, "advance", fail)
    jobs = [scheduler.submit(model, _task(seed), _budget()) for seed in range(2)]
    for job in jobs:
        with pytest.raises(torch.OutOfMemoryError):
            job.result(PATIENCE)
    broken.clear()

    assert scheduler.submit(model, _task(), _budget()).result(PATIENCE).step_count == 10


def test_a_step_that_hangs_shows(
    make_scheduler: MakeScheduler, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = make_scheduler(1)
    inside, go_on = threading.Event(), threading.Event()
    advance = Slots.advance

    def hang(slots: Slots) -> dict[int, float]:
        inside.set()
        assert go_on.wait(PATIENCE)
        return advance(slots)

    assert scheduler.stalled_seconds() == 0
    monkeypatch.setattr(Slots, "advance", hang)
    job = scheduler.submit(model, _task(), _budget())
    assert inside.wait(PATIENCE)

    assert scheduler.stalled_seconds() > 0
    go_on.set()
    job.result(PATIENCE)


def test_what_waits_at_the_end_is_dropped(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler(1)
    budget = _budget()
    running = scheduler.submit(model, _task(step_count=ENDLESS), budget)
    while not running.running():  # pytest's time limit ends this
        pass
    waiting = scheduler.submit(model, _task(), _budget())

    scheduler.close()
    budget.cancelled.set()

    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)


def test_a_task_that_does_not_fit_is_refused(
    make_scheduler: MakeScheduler, model: LoadedModel
) -> None:
    scheduler = make_scheduler()

    with pytest.raises(ValueError, match=r"examples of shape \(1, 12, 12\) .* got \(1, 5, 5\)"):
        scheduler.submit(model, _task(support=np.zeros((6, 1, 5, 5), np.float32)), _budget())
    with pytest.raises(ValueError, match="expected at most 20000 for model small, got 20001"):
        scheduler.submit(model, _task(step_count=ENDLESS + 1), _budget())


def test_an_engine_whose_thread_ends_does_not_stay(
    make_scheduler: MakeScheduler, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls would wait for their deadlines; the front starts another one."""
    left: list[int] = []
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        gone.set()

    def fail(_scheduler: Scheduler) -> None:
        raise MemoryError

    monkeypatch.setattr("kshot.engine.scheduler.os._exit", leave)
    monkeypatch.setattr(Scheduler, "_admit", fail)

    make_scheduler().submit(model, _task(), _budget())

    assert gone.wait(PATIENCE)
    assert left == [EXIT_FAILED]
