from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from kshot.server.adaptation import AdaptResult
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import DeadlineExceeded, InvalidRequest, QueueFull, RequestIdReused
from kshot.server.lives.model_maker import Remember
from kshot.server.request.violations import Violations
from kshot.server.rpc.request_ids import RequestIds
from kshot.server.store.adapted_model import AdaptedModelRecord
from kshot.server.store.failures import RequestAnswered
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.v1 import adaptation_pb2 as wire

ID = "9b2d3c52-63f4-4b8e-a1d7-5f0c7e9d2a41"


@dataclass
class Kept:
    """Adapted models and requests, as a store has them."""

    models: dict[str, AdaptedModelRecord] = field(default_factory=dict)
    requests: dict[tuple[str, str], AnsweredRequest] = field(default_factory=dict)

    async def find_request(self, request_id: str) -> AnsweredRequest | None:
        return self.requests.get((current_call().tenant, request_id))

    async def get(self, model_id: str) -> AdaptedModelRecord:
        return self.models[model_id]


@dataclass
class Bench:
    """Request ids over models in memory; adaptations wait for `go`, and `fail` if told so."""

    adapted: AdaptResult
    kept: Kept = field(default_factory=Kept)
    runs: int = 0
    given_up: int = 0
    fail: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.ids = RequestIds(cast(Any, self.kept), cast(Any, None), ttl=600)

    async def adapt(self, remember: Remember | None) -> AdaptResult:
        self.runs += 1
        self.begun.set()
        current_call().support_warnings.append("beware")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.fail:
            raise self.fail.pop()
        model = replace(self.adapted.model, id=f"am-{self.runs}")
        self.kept.models[model.id] = model
        if remember is not None:
            request = remember(self.adapted)(model)
            self.kept.requests[request.tenant, request.request_id] = request
        return replace(self.adapted, model=model)

    def call(
        self, model: str = "tiny", *, seconds: float = 60, tenant: str = "", request_id: str = ID
    ) -> asyncio.Task[wire.AdaptResponse]:
        async def answer() -> wire.AdaptResponse:
            begin_call("Adapt", seconds).tenant = tenant
            request = wire.AdaptRequest(model=model, request_id=request_id)
            return await self.ids.answer(request, wire.AdaptResponse, Violations(), self.adapt)

        return asyncio.create_task(answer())

    async def begin(self, **given: Any) -> asyncio.Task[wire.AdaptResponse]:  # noqa: ANN401 -- as `call`
        call = self.call(**given)
        await self.begun.wait()
        self.begun.clear()
        return call


Run = Callable[[Callable[[Bench], Awaitable[None]]], None]


@pytest.fixture
def run(make_model: Callable[..., AdaptedModelRecord], make_arrays: Callable[..., Any]) -> Run:
    """Run a test of a bench in an event loop."""
    parts = {"partial": False, "support_loss": (1.5, 0.5), "compute_path": "fake"}
    parts |= {"slot_bucket": 1, "estimate": None, "notes": ()}
    adapted = AdaptResult(make_model(), make_arrays(), **cast(Any, parts))

    async def on_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
        await test(Bench(adapted))

    return lambda test: asyncio.run(on_bench(test))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def same(first: wire.AdaptResponse, second: wire.AdaptResponse) -> bool:
    return (first.adapted_model, first.report) == (second.adapted_model, second.report)


def test_requests_at_once_run_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        calls = [bench.call() for _ in range(100)]
        await settle()
        bench.go.set()
        first, *others = await asyncio.gather(*calls)
        later = await bench.call(request_id=ID.upper())

        assert bench.runs == 1
        assert all(same(each, first) for each in [*others, later])
        assert not first.deduplicated
        assert all(each.deduplicated for each in [*others, later])
        assert list(first.report.warnings) == ["beware"]

    run(test)


def test_the_work_outlives_its_first_caller(run: Run) -> None:
    async def test(bench: Bench) -> None:
        first = await bench.begin()
        second = bench.call()
        await settle()
        first.cancel()
        await settle()
        bench.go.set()

        assert (await second).deduplicated
        assert (bench.runs, bench.given_up) == (1, 0)

    run(test)


def test_work_that_nobody_waits_for_is_given_up(run: Run) -> None:
    """A call that comes before it has ended runs again."""

    async def test(bench: Bench) -> None:
        calls = [await bench.begin(), bench.call()]
        await settle()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        bench.go.set()

        assert not (await bench.call()).deduplicated
        assert (bench.runs, bench.given_up) == (2, 1)

    run(test)


def test_another_request_may_not_have_the_id(run: Run) -> None:
    async def test(bench: Bench) -> None:
        first = await bench.begin()
        with pytest.raises(RequestIdReused):
            await bench.call("other")
        bench.go.set()
        await first
        with pytest.raises(RequestIdReused):
            await bench.call("other")
        other = await bench.call("other", tenant="b")

        assert not other.deduplicated
        assert other.adapted_model.id == "am-2"

    run(test)


def test_failures_are_not_remembered(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.fail.append(QueueFull())
        calls = [bench.call(), bench.call()]
        await settle()
        bench.go.set()
        for call in calls:
            with pytest.raises(QueueFull):
                await call

        assert not (await bench.call()).deduplicated
        assert bench.runs == 2

    run(test)


def test_each_call_has_its_own_deadline(run: Run) -> None:
    """Work that began with little time fails for all; who has more time begins it again."""

    async def test(bench: Bench) -> None:
        bench.fail.append(DeadlineExceeded())
        short = await bench.begin(seconds=0.02)
        long = bench.call(seconds=60)
        await settle()
        bench.go.set()
        with pytest.raises(DeadlineExceeded):
            await short

        assert not (await long).deduplicated
        assert bench.runs == 2

    run(test)


def test_an_answer_that_came_first_is_given(run: Run) -> None:
    """The store keeps one answer to an id, whoever else makes another meanwhile."""

    async def test(bench: Bench) -> None:
        bench.go.set()
        first = await (await bench.begin())
        (key,) = bench.kept.requests
        kept = bench.kept.requests.pop(key)
        bench.go.clear()
        second = await bench.begin()
        bench.kept.requests[key] = kept
        bench.fail.append(RequestAnswered())
        bench.go.set()

        assert same(await second, first)
        assert second.result().deduplicated

    run(test)


def test_an_id_is_a_uuid(run: Run) -> None:
    async def test(bench: Bench) -> None:
        violations = Violations()

        async def refuse(_remember: object) -> AdaptResult:
            violations.check()
            raise AssertionError

        begin_call("Adapt")
        request = wire.AdaptRequest(request_id="mine")
        with pytest.raises(InvalidRequest, match="request_id: expected a random UUID such as"):
            await bench.ids.answer(request, wire.AdaptResponse, violations, refuse)

    run(test)
