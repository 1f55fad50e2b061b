"""Tails that adapt behind heads: between the steps of others, and until their time is over."""

import itertools
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from kshot.bundle import Head
from kshot.engine import refining
from kshot.engine.budget import Budget
from kshot.engine.device import choose_device
from kshot.engine.models import LoadedModel
from kshot.engine.pool import Job
from kshot.engine.programs import Programs
from kshot.engine.refining import Refining
from kshot.engine.scheduler import Scheduler, SlotPlan
from kshot.engine.task import EngineResult, EngineTask, StopReason, TailTask
from kshot.engine.warm_up import blank_task
from kshot.engine.wire import decode_task, encode_result
from kshot.internal.v1 import engine_pb2
from kshot.learner import Refinement, RefinementTask, Tail, mixed_logits, refine

PATIENCE = 240  # seconds: ends a test that hangs, on the slowest machine
ENDLESS = 20_000
FEATURES, MAPS = 12, (3, 4, 4)  # of the bundle with a tail
Steps = Generator[None, None, Refinement]


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    """A scheduler with two slots; a tail takes none."""
    device = choose_device("cpu")
    made = Scheduler(Programs(None, device.device), device, SlotPlan(2, (1,)))
    yield made
    made.close()


@pytest.fixture
def task(tail_request: engine_pb2.AdaptRequest) -> EngineTask:
    return decode_task(tail_request)


def _tail(task: EngineTask) -> TailTask:
    assert task.tail is not None
    return task.tail


def _with_tail(task: EngineTask, **changed: object) -> EngineTask:
    return replace(task, tail=replace(_tail(task), **cast(dict[str, Any], changed)))


def _budget(seconds: float | None = None, *, allow_partial: bool = False) -> Budget:
    return Budget(seconds, allow_partial)


def test_a_tail_joins_its_head(scheduler: Scheduler, tailed: LoadedModel, task: EngineTask) -> None:
    head, *more = (
        scheduler.submit(tailed, replace(task, tail=None), _budget()).result(PATIENCE)
        for _ in range(3)
    )

    both = scheduler.submit(tailed, task, _budget()).result(PATIENCE)

    assert tailed.tail is not None
    assert head.held_out_logits is not None
    maps = np.concatenate(
        [task.support[None, :, FEATURES:].reshape(1, 9, *MAPS), _tail(task).crop_maps]
    )
    classes, left_out = torch.from_numpy(task.classes), torch.from_numpy(head.held_out_logits)
    plain = RefinementTask(torch.from_numpy(maps), classes, 3, left_out, 4, 3, task.seed)
    steps = refine(tailed.tail.network, tailed.tail.parameters, plain)
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    wanted: Refinement = end.value.value
    assert (both.stop_reason, both.step_count, both.slot_bucket) == (StopReason.COMPLETED, 0, 0)
    assert both.parameters.keys() == head.parameters.keys() | wanted.parameters.keys()
    for name, value in wanted.parameters.items():
        np.testing.assert_array_equal(both.parameters[name], value.numpy())
    for name, array in head.parameters.items():
        np.testing.assert_array_equal(both.parameters[name], array)
    assert wanted.held_out_logits is not None
    np.testing.assert_array_equal(both.held_out_logits, wanted.held_out_logits.numpy())
    # A busy machine may hold up one, not all.
    assert both.compute_seconds > min(each.compute_seconds for each in (head, *more))
    features = torch.from_numpy(task.support[:, :FEATURES, 0, 0])
    weight, bias = (
        torch.from_numpy(head.parameters[f"head.{name}"]) for name in ("weight", "bias")
    )
    parameters = {name: torch.from_numpy(array) for name, array in both.parameters.items()}
    tail_logits = tailed.tail.network.logits(parameters, torch.from_numpy(maps[0]))
    logits = mixed_logits(features @ weight.T + bias, tail_logits, parameters["tail.mix"])
    assert both.support_accuracy == (logits.argmax(1) == classes).double().mean()


def test_without_folds_the_left_out_answers_are_the_heads(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask
) -> None:
    task = _with_tail(task, fold_step_count=0)

    head, both = (
        scheduler.submit(tailed, each, _budget()).result(PATIENCE)
        for each in (replace(task, tail=None), task)
    )

    assert both.parameters["tail.mix"].sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(both.held_out_logits, head.held_out_logits)


def test_a_tail_without_weight_leaves_the_head(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask
) -> None:
    assert tailed.tail is not None
    strict = Tail(replace(tailed.tail.network.spec, likeness=1.0))
    unmoved = replace(tailed, tail=replace(tailed.tail, network=strict))

    got = scheduler.submit(unmoved, _with_tail(task, fold_step_count=0), _budget()).result(PATIENCE)

    assert set(got.parameters) == {"head.weight", "head.bias"}
    assert got.stop_reason is StopReason.COMPLETED


def test_neighbours_change_nothing(
    scheduler: Scheduler, tailed: LoadedModel, model: LoadedModel, task: EngineTask
) -> None:
    alone = scheduler.submit(tailed, task, _budget()).result(PATIENCE)
    budget = _budget()
    endless = scheduler.submit(model, _stepping(model), budget)

    first, second = (scheduler.submit(tailed, task, _budget()) for _ in range(2))

    for answer in (first, second):
        for name, array in alone.parameters.items():
            np.testing.assert_array_equal(answer.result(PATIENCE).parameters[name], array)
    assert not endless.done()
    budget.cancelled.set()
    endless.result(PATIENCE)


def test_others_pass_a_long_tail(
    scheduler: Scheduler, tailed: LoadedModel, model: LoadedModel, task: EngineTask
) -> None:
    budget = _budget()
    long = scheduler.submit(tailed, _with_tail(task, step_count=ENDLESS), budget)

    for _ in range(3):
        stepping = replace(_stepping(model), step_count=5)
        assert scheduler.submit(model, stepping, _budget()).result(PATIENCE).step_count == 5
        head = scheduler.submit(tailed, replace(task, tail=None), _budget()).result(PATIENCE)
        assert head.stop_reason is StopReason.COMPLETED

    assert not long.done()
    budget.cancelled.set()
    assert long.result(PATIENCE).stop_reason is StopReason.CANCELLED


@pytest.mark.parametrize("allow_partial", [False, True])
def test_the_head_is_left_at_the_deadline(
    scheduler: Scheduler,
    tailed: LoadedModel,
    tail_request: engine_pb2.AdaptRequest,
    *,
    allow_partial: bool,
) -> None:
    """Also of a job that waits behind another. The service refuses what is not asked for.

    A millisecond passes whenever the time is looked at, however busy the machine is.
    """
    first, second = (
        scheduler.submit(
            tailed,
            _with_tail(decode_task(tail_request), step_count=ENDLESS),
            Budget(0.5, allow_partial, clock=itertools.count(0, 1e-3).__next__),
        )
        for _ in range(2)
    )

    for answer in (first, second):
        got = answer.result(PATIENCE)
        assert got.stop_reason is StopReason.TIME_BUDGET
        assert set(got.parameters) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_the_second_of_two_alike_stops(
    scheduler: Scheduler,
    tailed: LoadedModel,
    tail_request: engine_pb2.AdaptRequest,
    seconds: float | None,
) -> None:
    """Tasks of two calls hold arrays of their own, which compare item by item."""
    budgets = _budget(), _budget(seconds)
    first, second = (
        scheduler.submit(tailed, _with_tail(decode_task(tail_request), step_count=ENDLESS), budget)
        for budget in budgets
    )
    if seconds is None:
        budgets[1].cancelled.set()

    reason = StopReason.CANCELLED if seconds is None else StopReason.TIME_BUDGET
    assert second.result(PATIENCE).stop_reason is reason
    assert not first.done()
    budgets[0].cancelled.set()
    assert first.result(PATIENCE).stop_reason is StopReason.CANCELLED


def test_the_heads_are_left_where_refining_fails(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Refining) -> None:
        raise RuntimeError("not a step's own")

    with monkeypatch.context() as patch:
        patch.setattr(Refining, "advance", fail)
        got = scheduler.submit(tailed, task, _budget()).result(PATIENCE)

    assert set(got.parameters) == {"head.weight", "head.bias"}
    both = scheduler.submit(tailed, task, _budget()).result(PATIENCE)
    assert "tail.mix" in both.parameters


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("unknown")])
def test_the_head_is_left_where_a_step_fails(
    scheduler: Scheduler,
    tailed: LoadedModel,
    task: EngineTask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(*_: object) -> Steps:
        yield
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(refining, "refine", fail)
        got = scheduler.submit(tailed, task, _budget()).result(PATIENCE)

    head = scheduler.submit(tailed, replace(task, tail=None), _budget()).result(PATIENCE)
    assert got.stop_reason is StopReason.COMPLETED
    assert got.tail_failed and encode_result(got).tail_failed
    assert not head.tail_failed
    assert got.parameters.keys() == head.parameters.keys()
    np.testing.assert_array_equal(got.held_out_logits, head.held_out_logits)
    assert [record.message for record in caplog.records] == ["tail_step_failed"]
    both = scheduler.submit(tailed, task, _budget()).result(PATIENCE)
    assert "tail.mix" in both.parameters


def test_a_device_that_failed_is_not_kept(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service ends the process on this error: no step works after it."""

    def fail(*_: object) -> Steps:
        yield
        raise torch.AcceleratorError("unspecified launch failure")

    monkeypatch.setattr(refining, "refine", fail)

    with pytest.raises(torch.AcceleratorError):
        scheduler.submit(tailed, task, _budget()).result(PATIENCE)


def test_callers_who_ask_again_have_as_much_time_as_a_step(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though none of them waits at the moment a step ends."""
    events: list[tuple[str, float]] = []

    def slow(*_: object) -> Steps:
        while True:
            events.append(("began", time.perf_counter()))
            time.sleep(0.1)
            events.append(("ended", time.perf_counter()))
            yield

    monkeypatch.setattr(refining, "refine", slow)
    budget = _budget()
    long = scheduler.submit(tailed, task, budget)
    for _ in range(20):
        head = scheduler.submit(tailed, replace(task, tail=None), _budget())
        head.add_done_callback(lambda _: events.append(("head", time.perf_counter())))
        head.result(PATIENCE)
        time.sleep(0.01)
    budget.cancelled.set()
    long.result(PATIENCE)

    ends = [number for number, (name, _) in enumerate(events) if name == "ended"]
    pauses = [events[first + 1 : last] for first, last in itertools.pairwise(ends)]
    passed = [
        (events[end][1], pause[-1][1])
        for end, pause in zip(ends, pauses, strict=False)
        if len(pause) > 1  # with heads before the next step
    ]
    assert passed
    assert all(began - ended > 0.08 for ended, began in passed)


def test_closing_ends_tails(scheduler: Scheduler, tailed: LoadedModel, task: EngineTask) -> None:
    jobs = [
        scheduler.submit(tailed, _with_tail(task, step_count=ENDLESS), _budget()) for _ in range(2)
    ]
    while not all(job.running() for job in jobs):  # pytest's time limit ends this
        pass

    scheduler.close()

    for job in jobs:
        with pytest.raises(CancelledError):
            job.result(PATIENCE)


def test_a_step_of_a_tail_that_hangs_shows(
    scheduler: Scheduler, tailed: LoadedModel, task: EngineTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hang(*arguments: object) -> Steps:
        inside.set()
        assert go_on.wait(PATIENCE)
        return (yield from refine(*cast(Any, arguments)))

    monkeypatch.setattr(refining, "refine", hang)
    job = scheduler.submit(tailed, task, _budget())
    assert inside.wait(PATIENCE)

    assert scheduler.stalled_seconds() > 0
    go_on.set()
    job.result(PATIENCE)


def test_a_tail_that_does_not_fit_is_refused(
    scheduler: Scheduler, tailed: LoadedModel, model: LoadedModel, task: EngineTask
) -> None:
    crops = np.zeros((2, 6, *MAPS), np.float32)
    other = replace(_stepping(model), step_count=0, head=Head.PROTOTYPE, tail=TailTask(1, 0, crops))

    with pytest.raises(ValueError, match="tail: model small has none"):
        scheduler.submit(model, other, _budget())
    with pytest.raises(ValueError, match=r"maps of shape \(3, 4, 4\) .* got \(3, 5, 5\)"):
        wide = _with_tail(task, crop_maps=np.zeros((2, 9, 3, 5, 5), np.float32))
        scheduler.submit(tailed, wide, _budget())
    with pytest.raises(ValueError, match=r"tail\.crop_maps: expected shape \(k, 9, .* got \(9,\)"):
        _with_tail(task, crop_maps=np.zeros(9, np.float32))
    with pytest.raises(ValueError, match="step_count: expected 0 with a tail, got 3"):
        replace(task, step_count=3)
    with pytest.raises(ValueError, match=r"tail\.step_count: expected at least 1, got 0"):
        _with_tail(task, step_count=0)
    with pytest.raises(
        ValueError, match=r"tail\.fold_step_count: expected 0 where a class has one"
    ):
        replace(task, classes=np.array([0, 1, 1, 1, 1, 1, 2, 2, 2]))


class _Ticking:
    """A clock that steps move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Queue:
    """Jobs whose tails take as many steps of one second as each says; `taken` names the jobs."""

    def __init__(self, model: LoadedModel, task: EngineTask) -> None:
        self.clock = _Ticking()
        self.refining = Refining(self.clock)
        self.jobs: list[Job] = []
        self.taken: list[int] = []
        self._model, self._task = model, task

    def refine(self, _tail: Tail, _start: object, task: RefinementTask) -> Steps:
        for _ in range(task.step_count):
            self.taken.append(task.seed)
            self.clock.now += 1.0
            yield
        return Refinement()

    def add(
        self, step_count: int, fold_step_count: int = 0, shot: int = 3, caller: str = ""
    ) -> None:
        count = 3 * shot
        task = replace(
            self._task,
            support=self._task.support[:count],
            classes=self._task.classes[:count],
            tail=TailTask(step_count, fold_step_count, _tail(self._task).crop_maps[:, :count]),
            seed=len(self.jobs),
            caller=caller,
        )
        job = Job(self._model, task, _budget())
        done, zeros = StopReason.COMPLETED, np.zeros((9, 3), np.float32)
        self.refining.add(job, EngineResult({}, {}, 0, done, (), 0.0, 0.25, "", 0, zeros))
        self.jobs.append(job)

    def drain(self) -> None:
        while len(self.refining):
            self.refining.advance()


@pytest.fixture
def queue(tailed: LoadedModel, task: EngineTask, monkeypatch: pytest.MonkeyPatch) -> _Queue:
    made = _Queue(tailed, task)
    monkeypatch.setattr(refining, "refine", made.refine)
    return made


def test_others_have_as_much_time_as_a_step(queue: _Queue) -> None:
    waiting, clock = queue.refining, queue.clock
    assert waiting.pause() is None
    queue.add(3)
    waiting.give_way()
    assert waiting.pause() == 0

    waiting.advance()

    assert waiting.pause() == 0  # nobody else is there
    waiting.give_way()
    assert waiting.pause() == 1
    clock.now += 0.75
    assert waiting.pause() == 0.25
    clock.now += 0.25
    assert waiting.pause() == 0


def test_equal_jobs_adapt_one_after_another(queue: _Queue) -> None:
    """The time counts that their own steps take."""
    queue.add(2)
    queue.add(2)

    queue.drain()

    assert queue.taken == [0, 0, 1, 1]
    assert [job.answer.result().compute_seconds for job in queue.jobs] == [2.25, 2.25]


def test_a_short_tail_passes_a_long_one(queue: _Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the long one has fewer steps left."""
    monkeypatch.setattr(refining, "OLDEST_EVERY", 1000)
    queue.add(5)
    queue.refining.advance()
    queue.add(2)
    queue.refining.advance()
    queue.add(3)

    queue.drain()

    assert queue.taken == [0, 1, 1, 2, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("long", "short"),
    [((2, 3), (10,)), ((2,), (5, 0, 1))],  # three folds; three examples a step instead of nine
)
def test_folds_and_examples_are_work(
    queue: _Queue, long: tuple[int, ...], short: tuple[int, ...]
) -> None:
    queue.add(*long)
    queue.add(*short)

    queue.refining.advance()

    assert queue.taken == [1]


def test_short_tails_do_not_stop_a_long_one(queue: _Queue) -> None:
    queue.add(100)
    for _ in range(10):
        queue.add(2)

    for _ in range(12):
        queue.refining.advance()

    assert queue.taken == [1, 1, 0, 2, 2, 0, 3, 3, 0]  # the last advance of a job ends it


def test_callers_take_turns(queue: _Queue) -> None:
    """However many tails one has, and however short they are."""
    for _ in range(6):
        queue.add(1, caller="many")
    for _ in range(5):
        queue.refining.advance()
    queue.add(6, caller="x")
    queue.add(6, caller="y")
    del queue.taken[:]

    for _ in range(9):
        queue.refining.advance()

    assert queue.taken.count(6) == queue.taken.count(7) == 3
    queue.drain()
    assert all(job.answer.done() for job in queue.jobs)


def test_a_caller_without_buffers_gets_some(queue: _Queue) -> None:
    for _ in range(refining.MOST_STARTED + 2):
        queue.add(50, caller="many")
    for _ in range(40):
        queue.refining.advance()
    queue.add(2, caller="few")

    for _ in range(6):
        queue.refining.advance()

    assert queue.jobs[-1].answer.done()


def test_few_tails_hold_buffers(queue: _Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "OLDEST_EVERY", 1000)
    for step_count in (12, 9, 6, 3):
        queue.add(step_count)
        queue.refining.advance()
    queue.add(1)
    queue.refining.advance()
    assert queue.taken == [0, 1, 2, 3, 3]

    queue.drain()

    assert queue.taken == [0, 1, 2, *[3] * 3, 4, *[2] * 5, *[1] * 8, *[0] * 11]


def test_the_steps_of_a_job_that_stops_count_among_its_seconds(queue: _Queue) -> None:
    queue.add(5)
    for _ in range(2):
        queue.refining.advance()
    queue.jobs[0].budget.cancelled.set()

    queue.refining.advance()

    got = queue.jobs[0].answer.result()
    assert (got.stop_reason, got.compute_seconds) == (StopReason.CANCELLED, 2.25)


def _stepping(model: LoadedModel) -> EngineTask:
    """A task of endless inner steps."""
    support = np.random.default_rng(1).random((6, 1, 12, 12), dtype=np.float32)
    classes = np.repeat(np.arange(3), 2)
    return replace(blank_task(model), support=support, classes=classes, way=3, step_count=20_000)
