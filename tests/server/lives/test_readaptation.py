"""Adapting again by itself: in the bounds of all adapting, and to its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kshot.bundle import Bundle
from kshot.server.access.quotas import Quotas
from kshot.server.adaptation import AdaptResult
from kshot.server.admission import Admission, ImageRoom
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import InvalidRequest, ModelChanged, QueueFull
from kshot.server.lives.model_maker import ModelMaker
from kshot.server.lives.readaptation import Readaptation
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.request.digest import input_digest
from kshot.server.request.inputs import AdaptInput
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.kept_support import KeptSupport
from kshot.server.workers import Workers

ROOM = 10**6


@dataclass
class Bench:
    """Adapts a model again, as a bundle's only version; the engine's part waits for `go`."""

    model: ServedModel
    record: AdaptedModelRecord
    workers: Workers = field(default_factory=Workers)
    reads: int = 0
    held: list[int] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    fail: Exception | None = None

    def __post_init__(self) -> None:
        self.go, self.begun = asyncio.Event(), asyncio.Event()
        self.queue, self.room = Admission(1), ImageRoom(small=ROOM)
        maker = ModelMaker(
            config=cast(Any, None),
            engine=cast(Any, None),
            kept_models=cast(Any, self),
            workers=self.workers,
            encodings=cast(Any, None),
            decoders=cast(Any, None),
            queue=self.queue,
            room=self.room,
            quotas=Quotas(),
        )
        object.__setattr__(maker, "adapt_to_keep", self.adapt_to_keep)
        self.readaptation = Readaptation(maker)

    async def get(self, _model_id: str) -> AdaptedModelRecord:
        return self.record

    async def read_whole(self, _model_id: str) -> tuple[AdaptedModelRecord, AdaptedArrays]:
        self.reads += 1
        self.held.append(ROOM - self.room._small.free_bytes)
        shape = (self.record.support_count, *self.model.bundle.manifest.input.shape)
        pixels = np.zeros(shape, np.float32)

        def unpacked() -> Any:  # noqa: ANN401 -- the images
            self.threads.append(threading.current_thread())
            return pixels

        packed = cast(Any, SimpleNamespace(unpacked=unpacked))
        examples = KeptSupport(np.zeros(len(pixels), np.int32), packed)
        return self.record, AdaptedArrays({}, {}, pixels[:0], examples=examples)

    async def replace(
        self, old: AdaptedModelRecord, _model: AdaptedModelRecord, _arrays: AdaptedArrays
    ) -> None:
        self.replaced.append(old.id)

    async def adapt_to_keep(self, _task: AdaptInput, *_rest: object) -> AdaptResult:
        self.tenants.append(current_call().tenant)
        self.begun.set()
        await self.go.wait()
        if self.fail is not None:
            raise self.fail
        return cast(Any, SimpleNamespace(model=self.record, arrays=None))

    def call(self, seconds: float | None = 60, tenant: str = "ada") -> asyncio.Task[None]:
        async def adapt() -> None:
            begin_call("Predict", seconds).tenant = tenant
            await self.readaptation.adapt(self.record, self.model)

        return asyncio.create_task(adapt())


Run = Callable[[Callable[[Bench], Awaitable[None]]], Bench]


@pytest.fixture
def run(tiny_bundle: Bundle, make_model: Callable[..., AdaptedModelRecord]) -> Run:
    """Run a test with a bench, whose readaptation begins at once."""
    (model,) = Catalog.load([tiny_bundle.path])

    def run(test: Callable[[Bench], Awaitable[None]]) -> Bench:
        async def main() -> Bench:
            digest = input_digest(model.bundle.manifest)
            record = replace(
                make_model(), support_kept=True, support_count=4, input_digest=digest, size_bytes=99
            )
            bench = Bench(model, record)
            await test(bench)
            await bench.workers.close()
            return bench

        return asyncio.run(main())

    return run


def test_work_outlives_its_caller(run: Run) -> None:
    """A short deadline would begin it anew for ever; it stays charged to the tenant."""

    async def test(bench: Bench) -> None:
        first = bench.call(seconds=0.01)
        await bench.begun.wait()
        first.cancel()
        await asyncio.wait([first])
        assert bench.queue.count == 1
        second = bench.call()
        await asyncio.sleep(0)
        bench.go.set()
        await second
        await bench.queue.wait_idle()

    bench = run(test)

    assert (bench.tenants, bench.replaced) == (["ada"], ["a1"])


def test_images_are_unpacked_in_bounds_and_in_a_thread(run: Run) -> None:
    """Room for the file and its images is held before the file is read."""

    async def test(bench: Bench) -> None:
        bench.go.set()
        await bench.call()

    bench = run(test)

    shape = bench.model.bundle.manifest.input.shape
    assert bench.held == [99 + 4 * 4 * int(np.prod(shape))]
    assert bench.threads != []
    assert threading.main_thread() not in bench.threads
    assert bench.room._small.free_bytes == ROOM


def test_a_full_queue_reads_nothing(run: Run) -> None:
    async def test(bench: Bench) -> None:
        with bench.queue.admit(), pytest.raises(QueueFull):
            await bench.call()

    assert run(test).reads == 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"input_digest": "other"}, "in another way"), ({"support_kept": False}, "is not kept")],
)
def test_a_problem_is_told_before_anything_is_read(
    run: Run, changes: dict[str, Any], problem: str
) -> None:
    async def test(bench: Bench) -> None:
        bench.record = replace(bench.record, **changes)
        with pytest.raises(ModelChanged, match=problem):
            await bench.call()

    bench = run(test)

    assert (bench.reads, bench.queue.admitted) == (0, 0)


def test_what_fails_for_good_is_not_tried_again(run: Run) -> None:
    """Also if nobody waited when it failed."""

    async def test(bench: Bench) -> None:
        bench.fail = InvalidRequest.about("options", "too many steps")
        first = bench.call()
        await bench.begun.wait()
        first.cancel()
        await asyncio.wait([first])
        bench.go.set()
        await bench.queue.wait_idle()
        with pytest.raises(ModelChanged, match="too many steps"):
            await bench.call()

    assert run(test).reads == 1
