from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import BatchNormMode
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import CallCancelled, DeadlineExceeded, InvalidRequest, NonFiniteLogits
from kshot.server.predict import batches as batches_module
from kshot.server.predict.batches import (
    MAX_BATCH_IMAGES,
    MAX_FILE_BYTES,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_IMAGES,
    Batches,
    Request,
    may_join,
    quick_to_decode,
)
from kshot.server.predict.prediction import Answers, read_logits
from kshot.server.request.inputs import EncodedImages, TensorImages
from kshot.server.workers import Workers

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
SUPPORT = BatchNormMode.SUPPORT
KEY = ("am-one", SUPPORT)


class Network:
    """A network of 3 classes that doubles numbers; it waits where a test says so."""

    def __init__(self) -> None:
        self.run_sizes: list[int] = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def run(self, queries: Floats) -> Floats:
        self.run_sizes.append(len(queries))
        self.started.set()
        assert self.go_on.wait(60)
        return queries * 2

    def hold(self) -> None:
        self.go_on.clear()
        self.started.clear()


def rows(count: int, start: float = 0) -> Floats:
    """Make queries `(count, 3)` that no other start has."""
    return (start + np.arange(count * 3, dtype=np.float32)).reshape(count, 3)


def request(queries: Floats) -> Request[Answers]:
    return Request(lambda: queries, lambda logits: read_logits(logits, SUPPORT), len(queries))


@asynccontextmanager
async def batches(lanes: int = 1) -> AsyncIterator[Batches[Answers]]:
    workers = Workers()
    try:
        yield Batches(workers, lanes=lanes)
    finally:
        await workers.close()


def ask(
    joined: Batches[Answers],
    network: Network,
    wanted: Request[Answers],
    remaining: float | None = None,
) -> asyncio.Task[Answers]:
    """Ask as a call of its own."""

    async def call() -> Answers:
        begin_call("Predict", remaining)
        return await joined.answer(KEY, wanted, network.run)

    return asyncio.create_task(call())


async def hold_one(joined: Batches[Answers], network: Network) -> asyncio.Task[Answers]:
    """Start a request that runs until the network goes on."""
    network.hold()
    first = ask(joined, network, request(rows(1)))
    await asyncio.to_thread(network.started.wait, 10)
    return first


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_request_alone_runs_at_once() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            answers = await ask(joined, network, request(rows(2)))
            np.testing.assert_array_equal(answers.logits, rows(2) * 2)

    run(main())

    assert network.run_sizes == [2]


def test_requests_during_a_run_share_the_next() -> None:
    """Each gets its own answers."""
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)
            others = [ask(joined, network, request(rows(n, 100 * n))) for n in (1, 2, 3)]
            await asyncio.sleep(0)  # lets them begin
            network.go_on.set()
            await first
            for count, answers in zip((1, 2, 3), await asyncio.gather(*others), strict=True):
                np.testing.assert_array_equal(answers.logits, rows(count, 100 * count) * 2)

    run(main())

    assert network.run_sizes == [1, 6]


def test_a_batch_is_bounded() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)
            others = [ask(joined, network, request(rows(15, n))) for n in range(10)]
            await asyncio.sleep(0)  # lets them begin
            network.go_on.set()
            await asyncio.gather(first, *others)

    run(main())

    assert network.run_sizes == [1, 60, 60, 30]
    assert max(network.run_sizes) <= MAX_BATCH_IMAGES


def test_lanes_run_side_by_side() -> None:
    """With two, a second request runs beside the first, and a third waits."""
    network, beside = Network(), Network()

    async def main() -> None:
        async with batches(lanes=2) as joined:
            first = await hold_one(joined, network)
            second = ask(joined, beside, request(rows(2)))
            await second
            assert not first.done()
            beside.hold()
            held = ask(joined, beside, request(rows(3)))
            await asyncio.to_thread(beside.started.wait, 10)
            waiting = [ask(joined, beside, request(rows(n))) for n in (1, 4)]
            await asyncio.sleep(0)  # lets them begin
            assert beside.run_sizes == [2, 3]
            beside.go_on.set()
            network.go_on.set()
            await asyncio.gather(first, held, *waiting)
            assert not joined._queues

    run(main())

    assert sorted(network.run_sizes + beside.run_sizes) in ([1, 2, 3, 5], [1, 1, 2, 3, 4])


def test_adapted_models_do_not_wait_for_one_another() -> None:
    held, free = Network(), Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, held)
            begin_call("Predict")
            await joined.answer(("am-two", SUPPORT), request(rows(1)), free.run)
            assert not first.done()
            held.go_on.set()
            await first

    run(main())


def test_a_bad_request_fails_alone() -> None:
    network = Network()

    def refuse() -> Floats:
        raise InvalidRequest.about("queries", "expected images, got nonsense")

    bad = Request(refuse, lambda logits: read_logits(logits, SUPPORT), 1)
    infinite = request(np.full((1, 3), np.inf, np.float32))

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)
            asked = [request(rows(2)), bad, infinite, request(rows(1, 50))]
            others = [ask(joined, network, each) for each in asked]
            await asyncio.sleep(0)  # lets them begin
            network.go_on.set()
            await first
            one, refused, overflown, two = await asyncio.gather(*others, return_exceptions=True)
            assert isinstance(refused, InvalidRequest)
            assert isinstance(overflown, NonFiniteLogits)
            assert isinstance(one, Answers)
            assert isinstance(two, Answers)
            np.testing.assert_array_equal(one.logits, rows(2) * 2)
            np.testing.assert_array_equal(two.logits, rows(1, 50) * 2)

    run(main())

    assert network.run_sizes == [1, 4]


def test_what_a_run_cannot_take_fails_alone() -> None:
    """When the network fails for a batch, each request runs by itself."""
    network = Network()

    def fails_for_sevens(queries: Floats) -> Floats:
        logits = network.run(queries)
        if (queries == 7).all(axis=1).any():
            raise RuntimeError("no sevens")
        return logits

    async def main() -> None:
        async with batches() as joined:
            network.hold()

            async def call(wanted: Request[Answers]) -> Answers:
                begin_call("Predict")
                return await joined.answer(KEY, wanted, fails_for_sevens)

            first = asyncio.create_task(call(request(rows(1))))
            await asyncio.to_thread(network.started.wait, 10)
            sevens = request(np.full((1, 3), 7, np.float32))
            others = [asyncio.create_task(call(each)) for each in (sevens, request(rows(2)))]
            await asyncio.sleep(0)  # lets them begin
            network.go_on.set()
            await first
            failed, good = await asyncio.gather(*others, return_exceptions=True)
            assert isinstance(failed, RuntimeError)
            assert isinstance(good, Answers)
            np.testing.assert_array_equal(good.logits, rows(2) * 2)

    run(main())


def test_a_caller_who_leaves_takes_its_queries_along() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)
            leaving, staying = (ask(joined, network, request(rows(n))) for n in (5, 2))
            await asyncio.sleep(0)  # lets them begin
            leaving.cancel()
            await asyncio.sleep(0)  # lets it leave
            network.go_on.set()
            await first
            np.testing.assert_array_equal((await staying).logits, rows(2) * 2)

    run(main())

    assert network.run_sizes == [1, 2]


def test_a_leaving_caller_harms_nobody() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)
            first.cancel()
            other = ask(joined, network, request(rows(2)))
            await asyncio.sleep(0)  # lets it begin
            network.go_on.set()
            np.testing.assert_array_equal((await other).logits, rows(2) * 2)
            with pytest.raises(asyncio.CancelledError):
                await first

    run(main())


def test_deadlines_and_ends_are_each_calls_own() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:
            first = await hold_one(joined, network)

            async def ended() -> Answers:
                begin_call("Predict").ended = True
                return await joined.answer(KEY, request(rows(3)), network.run)

            late, over = ask(joined, network, request(rows(4)), 0.0), asyncio.create_task(ended())
            good = ask(joined, network, request(rows(2)))
            await asyncio.sleep(0)  # lets them begin
            network.go_on.set()
            await first
            np.testing.assert_array_equal((await good).logits, rows(2) * 2)
            with pytest.raises(DeadlineExceeded):
                await late
            with pytest.raises(CallCancelled):
                await over

    run(main())

    assert network.run_sizes == [1, 2]


def test_each_call_counts_its_own_time() -> None:
    network = Network()

    async def main() -> None:
        async with batches() as joined:

            async def call() -> dict[str, float]:
                begin_call("Predict")
                await joined.answer(KEY, request(rows(1)), network.run)
                return current_call().seconds

            network.hold()
            first = asyncio.create_task(call())
            await asyncio.to_thread(network.started.wait, 10)
            second = asyncio.create_task(call())
            await asyncio.sleep(0)  # lets it begin
            network.go_on.set()
            early, late = await asyncio.gather(first, second)
            assert early["compute"] > 0
            assert late["compute"] > 0
            assert late["queue"] > 0

    run(main())


def test_at_a_stop_those_who_wait_are_cancelled() -> None:
    network = Network()

    async def main() -> None:
        workers = Workers()
        joined: Batches[Answers] = Batches(workers)
        first = await hold_one(joined, network)
        waiting = ask(joined, network, request(rows(1)))
        await asyncio.sleep(0)  # lets it begin
        closing = asyncio.create_task(workers.close())
        await asyncio.sleep(0)  # lets it begin
        network.go_on.set()
        await closing
        await first
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(main())


def test_many_callers_get_what_each_would_get_alone() -> None:
    """Thirty callers, three models, requests of all sizes, some of which leave or are refused."""
    random = np.random.default_rng(3)
    factors = {f"am-{name}": np.float32(name + 2) for name in range(3)}

    async def main() -> None:
        async with batches() as joined:

            async def caller(number: int) -> int:
                count = 0
                for turn in range(40):
                    name = f"am-{(number + turn) % 3}"
                    queries = random.normal(size=(1 + (number * turn) % 15, 3)).astype(np.float32)
                    begin_call("Predict").ended = turn % 11 == 5

                    def multiply(given: Floats, factor: np.float32 = factors[name]) -> Floats:
                        return given * factor

                    answering = joined.answer((name, SUPPORT), request(queries), multiply)
                    if turn % 11 == 5:
                        with pytest.raises(CallCancelled):
                            await answering
                        continue
                    if turn % 13 == 7:
                        with pytest.raises(TimeoutError):
                            await asyncio.wait_for(answering, 0)
                        continue
                    answers = await answering
                    np.testing.assert_array_equal(answers.logits, queries * factors[name])
                    count += 1
                return count

            counts = await asyncio.gather(*(caller(number) for number in range(30)))
            assert sum(counts) == 30 * 33
            assert not joined._queues

    run(main())


def test_small_tensors_may_join_and_nothing_else() -> None:
    small = TensorImages("UINT8", (1, 28, 28), b"0" * 784)
    large = TensorImages("UINT8", (1, 28, 28), b"0" * (MAX_REQUEST_BYTES + 1))

    assert may_join(small, 1, SUPPORT)
    assert may_join(small, 6, BatchNormMode.SUPPORT_AND_QUERY)
    assert not may_join(small, 1, BatchNormMode.TRANSDUCTIVE)
    assert not may_join(small, MAX_REQUEST_IMAGES + 1, SUPPORT)
    assert not may_join(large, 1, SUPPORT)
    assert not may_join(EncodedImages((b"png",)), 1, SUPPORT)
    assert not may_join(None, 0, SUPPORT)


def file(side: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, kind)
    return stream.getvalue()


def test_few_files_of_small_pictures_are_quick_to_decode() -> None:
    assert quick_to_decode(EncodedImages((file(128),) * 2))
    assert not quick_to_decode(EncodedImages((file(512),) * 3))
    assert not quick_to_decode(EncodedImages((file(4),) * (MAX_REQUEST_IMAGES + 1)))
    assert not quick_to_decode(EncodedImages((file(4, "PNG"),)))
    assert not quick_to_decode(EncodedImages((b"words",)))
    assert not quick_to_decode(TensorImages("UINT8", (1, 4, 4), b"0" * 16))
    assert not quick_to_decode(None)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_files_that_may_take_long_to_open_are_not_opened(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG of empty segments takes seconds."""
    small = file(32, kind)
    slow = small[:2] + b"\xff\xfe\x00\x02" * 2**18 + small[2:]
    padded = small.ljust(MAX_FILE_BYTES, b"\0")
    monkeypatch.setattr(batches_module, "count_pixels", lambda _: 1)
    assert quick_to_decode(EncodedImages((padded,) * 4))
    monkeypatch.setattr(batches_module, "count_pixels", lambda _: pytest.fail("it was opened"))

    assert not quick_to_decode(EncodedImages((slow,)))
    assert not quick_to_decode(EncodedImages((padded + b"\0",)))
    assert not quick_to_decode(EncodedImages((padded,) * 5))
