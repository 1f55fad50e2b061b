"""Candidates hold their images as long as crops may need them, and no longer."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import Bundle, Head, Manifest, Scope
from kshot.server import adapter as adapter_module
from kshot.server.adaptation import AdaptResult
from kshot.server.adapter import Adapter
from kshot.server.call_context import begin_call, current_call
from kshot.server.checked_task import CheckedTask, task_for
from kshot.server.choice import Candidate
from kshot.server.engine_link.client import EngineTask
from kshot.server.errors import (
    AdaptationDiverged,
    DeadlineExceeded,
    DeviceMemoryFull,
    EngineUnavailable,
)
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.runtime import Runtime
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.workers import Workers
from tests.patience import with_more_time

MakeModel = Callable[..., AdaptedModelRecord]
LABELS = (0, 0, 1, 1)
# Two crops of each picture, 48 numbers each; and the pictures, whose values no pixel has.
MAPS_BYTES, PACKED_BYTES = 2 * 4 * 48 * 4, 4 * 3 * 8 * 8 * 4


MakeCandidate = Callable[..., Candidate]


@pytest.fixture
def make_candidate(tail_bundle: Bundle, make_model: MakeModel) -> MakeCandidate:
    """Make a support set of four images, for scope auto, and two queries if asked."""
    manifest: Manifest = tail_bundle.manifest

    def make(*, queries: bool = False, **changed: Any) -> Candidate:  # noqa: ANN401 -- options
        options = replace(
            make_model().options, scope=Scope.AUTO, step_count=0, head=Head.RIDGE, time_budget=60.0
        )
        options = replace(options, **changed)
        images = np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
        task = EngineTask("tailed", tail_bundle.digest, images, LABELS, 2, options)
        encoder = Encoder(tail_bundle, Runtime())
        model = SimpleNamespace(bundle=tail_bundle, encoder=encoder, predictor=None)
        checked = task_for(manifest, task, ("a", "b"), images)
        return Candidate(cast(Any, model), checked, images[:2].copy() if queries else None)

    return make


@pytest.fixture
def candidate(make_candidate: MakeCandidate) -> Candidate:
    return make_candidate()


NOTHING = AdaptResult(**cast(Any, dict.fromkeys(AdaptResult.__dataclass_fields__)))
HEAD = replace(NOTHING, warnings=("of the head",), chosen_from=(("tailed", None),), partial=False)


@dataclass
class Calls:
    """What became of the calls: the engine's tasks, the last result, the room that was kept."""

    tasks: list[CheckedTask] = field(default_factory=list)
    result: AdaptResult = HEAD
    kept: list[int] = field(default_factory=list)


def make_calls(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Candidate],
    *calls: str,
    seconds: Sequence[float] = (1e-4,),
    deadline: float | None = None,
    answer: Callable[[CheckedTask], Awaitable[AdaptResult]] | None = None,
) -> Calls:
    """Let an adapter make these calls, one after another.

    `seconds` are those of a step, as the engines tell them each time that they are asked; 0 before
    they do.
    """
    done = Calls()
    told = iter([*seconds, *seconds[-1:] * 9])

    class Engine:
        adapt = None

        @property
        def tail_seconds(self) -> SimpleNamespace:
            step = next(told)
            return SimpleNamespace(get=lambda _digest, _default: step)

    async def adapt(task: CheckedTask, *_: object) -> AdaptResult:
        done.tasks.append(task)
        return await answer(task) if answer is not None and task.tail is not None else HEAD

    async def main() -> None:
        begin_call("Adapt", deadline)
        workers = Workers()
        adapter = Adapter(cast(Any, Engine()), Encodings(workers), workers, done.kept.append)
        candidates = [make()]
        for call in calls:
            given = candidates.pop()
            arguments: list[Any] = [given]
            del given
            if call == "refine":
                arguments.append(done.result)
            work = getattr(adapter, call)(*arguments)
            arguments.clear()
            held, done.result = await work
            candidates.append(held)
            del held
        await workers.close()

    monkeypatch.setattr(adapter_module, "adapt", adapt)
    asyncio.run(main())
    return done


def run(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, *calls: str, seconds: float = 1e-4
) -> list[CheckedTask]:
    """Return what the engine gets."""
    return make_calls(monkeypatch, lambda: candidate, *calls, seconds=(seconds,)).tasks


def test_the_only_candidates_tail_is_planned(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate
) -> None:
    (task,) = run(monkeypatch, candidate, "adapt")
    tail = task.engine_task.tail

    assert tail is not None and (tail.step_count, tail.fold_step_count) == (20, 12)
    assert tail.crop_maps.shape == (2, 4, 3, 4, 4)
    assert task.engine_task.support.shape == (4, 60, 1, 1)
    assert len(task.images) == 0


def test_several_candidates_wait_with_their_tails(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate
) -> None:
    compared, refined = run(monkeypatch, candidate, "adapt_head", "refine")

    assert compared.engine_task.tail is None and compared.tail is None
    assert len(compared.images) == 4
    assert refined.engine_task.tail is not None and len(refined.images) == 0


@pytest.mark.parametrize("call", ["adapt", "adapt_head"])
def test_images_that_no_crop_needs_are_dropped(
    monkeypatch: pytest.MonkeyPatch, candidate: Candidate, call: str
) -> None:
    """An engine that measured no tail adapts none."""
    (task,) = run(monkeypatch, candidate, call, seconds=0)

    assert task.engine_task.tail is None and task.tail is None
    assert len(task.images) == 0


def test_what_a_call_computed_counts(monkeypatch: pytest.MonkeyPatch, candidate: Candidate) -> None:
    """Of a minute, 59 seconds went into decoding."""
    begin = adapter_module.current_call

    def late() -> Any:  # noqa: ANN401 -- a call
        call = begin()
        call.seconds["decode"] = 59.99
        return call

    monkeypatch.setattr(adapter_module, "current_call", late)
    (task,) = run(monkeypatch, candidate, "adapt")

    assert task.tail is not None and task.tail.plan is None
    assert task.tail.needed_seconds > 60


@pytest.mark.parametrize(
    ("calls", "changed"),
    [
        (("adapt",), {}),
        (("adapt",), {"scope": Scope.HEAD}),
        (("adapt_head",), {"scope": Scope.HEAD}),
        (("adapt_head", "refine"), {}),
    ],
)
def test_nobody_holds_images_while_the_engine_works(
    monkeypatch: pytest.MonkeyPatch,
    make_candidate: MakeCandidate,
    calls: tuple[str, ...],
    changed: dict[str, Any],
) -> None:
    """They are many times larger than what encoders make of them."""
    images: list[weakref.ref[Any]] = []
    held: list[int] = []

    def make() -> Candidate:
        made = make_candidate(queries="adapt_head" not in calls, **changed)
        images.append(weakref.ref(made.task.images))
        if made.queries is not None:
            images.append(weakref.ref(made.queries))
        return made

    class Watched(Adapter):
        async def _run(self, candidate: Candidate) -> AdaptResult:
            last = candidate.task.tail is not None or bool(changed)
            for _ in range(6000 if last else 1):  # threads soon forget their work
                count = sum(each() is not None for each in images)
                if not count:
                    break
                await asyncio.sleep(0.01)
            held.append(count)
            return HEAD

    monkeypatch.setattr(f"{__name__}.Adapter", Watched)
    make_calls(monkeypatch, make, *calls)

    assert held[-1] == 0


@pytest.mark.parametrize(
    ("calls", "changed", "kept"),
    [
        (("adapt",), {}, [MAPS_BYTES + PACKED_BYTES]),
        (("adapt",), {"retain_support": False}, [MAPS_BYTES]),
        (("adapt",), {"scope": Scope.HEAD}, [PACKED_BYTES]),
        (("adapt_head", "refine"), {"time_budget": 1e-9, "retain_support": False}, [0]),
        (("adapt_head", "refine"), {}, [MAPS_BYTES + PACKED_BYTES]),
    ],
)
def test_the_room_of_images_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
    make_candidate: MakeCandidate,
    calls: tuple[str, ...],
    changed: dict[str, Any],
    kept: list[int],
) -> None:
    """All but that of the crops' maps and of the images that are stored."""
    assert make_calls(monkeypatch, lambda: make_candidate(**changed), *calls).kept == kept


@pytest.mark.parametrize(
    ("error", "sentence", "late"),
    [
        (DeadlineExceeded(), "options.time_budget: the deadline came before", True),
        (TimeoutError(), "options.time_budget: the deadline came before", True),
        (EngineUnavailable(), "options.scope: the engine stopped before", False),
        (DeviceMemoryFull(), "options.scope: the device's memory was full before", False),
    ],
)
@pytest.mark.parametrize("allow_partial", [False, True])
def test_what_goes_wrong_with_the_chosen_models_tail_leaves_its_head(
    monkeypatch: pytest.MonkeyPatch,
    make_candidate: MakeCandidate,
    error: Exception,
    sentence: str,
    late: bool,
    allow_partial: bool,
) -> None:
    async def fail(_: CheckedTask) -> AdaptResult:
        raise error

    make = partial(make_candidate, allow_partial=allow_partial)
    result = make_calls(monkeypatch, make, "adapt_head", "refine", answer=fail).result

    assert result.chosen_from == HEAD.chosen_from
    assert result.partial is (late and allow_partial)
    assert result.warnings[0] == "of the head" and sentence in result.warnings[1]
    assert result.tail is not None and (result.tail.weight, result.tail.step_count) == (0, 0)


def test_other_errors_of_a_tail_are_raised(
    monkeypatch: pytest.MonkeyPatch, make_candidate: MakeCandidate
) -> None:
    async def fail(_: CheckedTask) -> AdaptResult:
        raise AdaptationDiverged(0, 0.1)

    with pytest.raises(AdaptationDiverged):
        make_calls(monkeypatch, make_candidate, "adapt_head", "refine", answer=fail)


def test_a_tail_that_never_ends_leaves_time_for_the_answer(
    monkeypatch: pytest.MonkeyPatch, make_candidate: MakeCandidate
) -> None:
    remaining: list[float | None] = []

    async def hang(_: CheckedTask) -> AdaptResult:
        try:
            await asyncio.Event().wait()
        finally:
            remaining.append(current_call().remaining())
        raise AssertionError

    def outlast(seconds: float) -> None:
        done = make_calls(
            monkeypatch, make_candidate, "adapt_head", "refine", deadline=seconds, answer=hang
        )
        assert "the deadline came" in done.result.warnings[1]
        assert remaining[-1] is not None and remaining[-1] > 0.1

    with_more_time(outlast, 0.8)


@pytest.mark.parametrize("calls", [("adapt",), ("adapt_head", "refine")])
def test_crops_that_take_too_long_leave_the_head(
    monkeypatch: pytest.MonkeyPatch, make_candidate: MakeCandidate, calls: tuple[str, ...]
) -> None:
    async def crop_maps(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Encodings, "crop_maps", crop_maps)

    def outlast(seconds: float) -> None:
        make = partial(make_candidate, seed=1)
        done = make_calls(monkeypatch, make, *calls, deadline=seconds)
        (task,) = done.tasks
        assert task.engine_task.tail is None
        outlook = task.tail
        if "refine" in calls:
            assert done.result.tail is not None and done.result.tail.needed_seconds > 0
        else:
            assert outlook is not None and (outlook.plan, outlook.limit) == (None, "deadline")
            assert len(task.images) == 0

    with_more_time(outlast, 0.8)


@pytest.mark.parametrize("calls", [("adapt",), ("adapt_head", "refine")])
@pytest.mark.parametrize("seconds", [(0, 1e-4), (1e-4, 0)])
def test_an_engine_that_comes_or_goes_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
    make_candidate: MakeCandidate,
    calls: tuple[str, ...],
    seconds: tuple[float, float],
) -> None:
    """Images that were dropped give no crops, and those that were kept are dropped."""
    done = make_calls(monkeypatch, make_candidate, *calls, seconds=seconds)
    tail = done.tasks[-1].engine_task.tail

    assert len(done.tasks[-1].images) == 0
    if seconds[0]:
        assert tail is not None and tail.crop_maps.shape == (2, 4, 3, 4, 4)
    else:
        assert tail is None
