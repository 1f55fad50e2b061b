"""What is kept, in the store and in memory: for callers who leave, and against those who delete."""

from __future__ import annotations

import asyncio
import errno
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kshot.server.call_context import begin_call
from kshot.server.errors import (
    AdaptedModelDeleted,
    AdaptedModelExpired,
    AdaptedModelNotFound,
    EtagMismatch,
    InvalidRequest,
    StoreUnavailable,
)
from kshot.server.request.renewal import Renewal
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.kept_models import Handover, KeptModels
from kshot.server.store.model_cache import ModelCache
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.workers import Workers

Make = Callable[..., Any]


class SlowStore:
    """A store whose `put` waits, before it keeps and after."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.putting = threading.Event()
        self.go = threading.Event()
        self.threads: dict[str, int] = {}
        self.stored, self.on_wire = store.stored, store.on_wire

    def put(
        self,
        model: AdaptedModelRecord,
        arrays: AdaptedArrays,
        *more: Any,  # noqa: ANN401 -- as `LocalStore.put`
    ) -> AdaptedModelRecord:
        self.threads["put"] = threading.get_ident()
        self.putting.set()
        self.go.wait()
        return self._store.put(model, arrays, *more)

    def delete(self, model_id: str, tenant: str) -> None:
        self.threads["delete"] = threading.get_ident()
        self._store.delete(model_id, tenant)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore.open(tmp_path / "s", max_count=5, max_bytes=10**7) as opened:
        yield opened


@pytest.fixture
def keep(make_model: Make, make_arrays: Make) -> Make:
    """Start to keep a model in a store."""

    def start(store: Any, workers: Workers) -> asyncio.Task[AdaptedModelRecord]:  # noqa: ANN401 -- a store or what is like one
        begin_call("Adapt")
        model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
        kept = KeptModels(store, ModelCache(0), workers)
        return asyncio.create_task(kept.keep(model, make_arrays()))

    return start


@asynccontextmanager
async def open_workers() -> AsyncIterator[Workers]:
    workers = Workers()
    try:
        yield workers
    finally:
        await workers.close()


def test_a_model_of_a_caller_who_left_is_dropped(store: LocalStore, keep: Make) -> None:
    """Nobody knows the id of what an abandoned Adapt has stored: it must not fill the store."""
    slow = SlowStore(store)

    async def main() -> None:
        async with open_workers() as workers:
            keeping = keep(slow, workers)
            await asyncio.to_thread(slow.putting.wait)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping
            slow.go.set()

    asyncio.run(main())

    assert slow.threads["put"] == slow.threads["delete"]
    assert store.list(10) == ([], "")


def test_an_answer_is_kept_whoever_leaves(
    store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    """A second caller who left ended the wait while the thread still wrote."""
    slow: Any = SlowStore(store)

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            kept = KeptModels(slow, ModelCache(0), workers)
            model = make_model(expire_time=time.time() + 1000)
            keeping = asyncio.create_task(
                kept.keep(
                    model,
                    make_arrays(),
                    lambda made: AnsweredRequest("", "r1", "b", made.id, b"", time.time() + 1000),
                )
            )
            await asyncio.to_thread(slow.putting.wait)
            for _ in range(3):
                keeping.cancel()
                await asyncio.wait([keeping], timeout=0)
            ended = keeping.done()
            slow.go.set()
            with pytest.raises(asyncio.CancelledError):
                await keeping
            assert not ended

    asyncio.run(main())

    assert store.find_request("r1") is not None


def test_a_caller_who_leaves_after_the_put_leaves_nothing(
    store: LocalStore, keep: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = threading.Event()
    give = Handover.give

    def tell(handover: Handover) -> bool:
        there = give(handover)
        given.set()
        return there

    monkeypatch.setattr(Handover, "give", tell)

    async def main() -> None:
        async with open_workers() as workers:
            keeping = keep(store, workers)
            await asyncio.sleep(0)  # lets it begin
            # Holds up the loop, which is not to hear of the end before the caller leaves.
            assert given.wait(60)
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping

    asyncio.run(main())

    assert store.list(10) == ([], "")


def test_a_cancelled_put_survives_a_closed_pool(
    store: LocalStore, keep: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop may close the pool before the caller's task is cancelled."""
    slow = SlowStore(store)

    async def main() -> None:
        workers = Workers()
        keeping = keep(slow, workers)
        await asyncio.to_thread(slow.putting.wait)
        workers._store.close()
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        slow.go.set()
        await workers.close()

    asyncio.run(main())

    assert caplog.records == []
    assert store.list(10) == ([], "")


def test_what_is_in_memory_is_read_without_the_store(
    store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    """Predictions do not wait for what others write."""
    cache = ModelCache(10**6)

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
            kept_models = KeptModels(store, cache, workers)
            kept = await kept_models.keep(model, make_arrays())
            store.close()
            assert (await kept_models.read(kept.id))[0] == kept

    asyncio.run(main())


def test_what_has_expired_is_gone_from_memory_too(
    tmp_path: Path, make_model: Make, make_arrays: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    cache = ModelCache(10**6)

    async def main(store: LocalStore) -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            model = make_model(create_time=now, expire_time=now + 1000)
            kept_models = KeptModels(store, cache, workers)
            kept = await kept_models.keep(model, make_arrays())
            assert cache.used_bytes > 0
            monkeypatch.setattr(time, "time", lambda: now + 1001)
            with pytest.raises(AdaptedModelExpired):
                await kept_models.read(kept.id)

    with LocalStore.open(
        tmp_path / "s", max_count=5, max_bytes=10**7, clock=lambda: time.time()
    ) as store:
        asyncio.run(main(store))

    assert cache.used_bytes == 0


def test_a_model_deleted_during_put_is_not_cached(
    store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    """A list may name it before the caller who adapted it hears of it."""
    cache = ModelCache(10**6)

    class Hasty:
        """A store where somebody deletes what has just been put."""

        def put(
            self, model: AdaptedModelRecord, arrays: AdaptedArrays, *_request: None
        ) -> AdaptedModelRecord:
            kept = store.put(model, arrays)
            store.delete(kept.id)
            cache.discard(kept.id)
            return kept

        get = staticmethod(store.get)
        erases = staticmethod(store.erases)
        now = staticmethod(store.now)
        stored = staticmethod(store.stored)
        on_wire = staticmethod(store.on_wire)

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
            hasty: Any = Hasty()
            kept_models = KeptModels(hasty, cache, workers)
            kept = await kept_models.keep(model, make_arrays())
            with pytest.raises(AdaptedModelDeleted):
                await kept_models.read(kept.id)

    asyncio.run(main())

    assert cache.used_bytes == 0


@pytest.mark.parametrize("failed", ["the file", "the note in memory"])
def test_a_deleted_model_does_not_answer_from_memory(
    store: LocalStore,
    make_model: Make,
    make_arrays: Make,
    monkeypatch: pytest.MonkeyPatch,
    failed: str,
) -> None:
    cache = ModelCache(10**6)

    def refuse(_ids: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
            kept_models = KeptModels(store, cache, workers)
            kept = await kept_models.keep(model, make_arrays())
            if failed == "the file":
                with monkeypatch.context() as patched:
                    patched.setattr(store._files, "remove", refuse)
                    with pytest.raises(StoreUnavailable):
                        await kept_models.delete(kept.id)
            else:
                store.delete(kept.id)
                with pytest.raises(AdaptedModelDeleted):
                    await kept_models.get(kept.id)
            with pytest.raises(AdaptedModelDeleted):
                await kept_models.read(kept.id)

    asyncio.run(main())

    assert cache.used_bytes == 0


def test_a_model_whose_row_is_gone_leaves_memory(
    store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    cache = ModelCache(10**6)

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            model = make_model(create_time=time.time(), expire_time=time.time() + 1000)
            kept_models = KeptModels(store, cache, workers)
            kept = await kept_models.keep(model, make_arrays())
            store._index.forget(kept.id)
            for refused in (kept_models.get, kept_models.delete, kept_models.read):
                with pytest.raises(AdaptedModelNotFound):
                    await refused(kept.id)

    asyncio.run(main())

    assert cache.used_bytes == 0


def test_delete_frees_memory_and_disk_at_once(
    tmp_path: Path, store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    """Sessions of single models live as long as their arrays, so they go too."""
    cache = ModelCache(10**7)

    async def main() -> None:
        async with open_workers() as workers:
            call = begin_call("Adapt")
            call.tenant = "ada"
            kept = KeptModels(store, cache, workers)
            later = time.time() + 1000
            models = [
                await kept.keep(make_model(expire_time=later), make_arrays()) for _ in range(3)
            ]
            held = [weakref.ref((await kept.read(model.id))[1]) for model in models]
            assert cache.used_bytes

            await kept.delete(models[0].id)
            assert [ref() is None for ref in held] == [True, False, False]
            assert not list(tmp_path.rglob(f"*{models[0].id}*"))
            call.tenant = "bob"
            for method in (kept.get, kept.read, kept.read_whole, kept.delete):
                with pytest.raises(AdaptedModelNotFound) as caught:
                    await method(models[1].id)
                assert caught.type is AdaptedModelNotFound
            assert held[1]() is not None  # others do not throw it out of memory
            assert await kept.page(9, "", "") == ([], "")
            assert await kept.delete_tenant("ada") == 2
            gc.collect()  # refusals are cycles, whose frames hold what they found
            assert all(ref() is None for ref in held)
            assert cache.used_bytes == 0
            assert not list(tmp_path.rglob("*.safetensors*"))

    asyncio.run(main())


def test_memory_does_not_answer_for_a_tenant_that_is_erased(
    store: LocalStore, make_model: Make, make_arrays: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing the index anew may last, and who called before keeps nothing afterwards."""
    cache = ModelCache(10**7)
    reached, go = threading.Event(), threading.Event()
    clear = store._files.clear_quarantine

    def wait(others: Any) -> None:  # noqa: ANN401 -- as the method
        reached.set()
        go.wait()
        clear(others)

    monkeypatch.setattr(store._files, "clear_quarantine", wait)

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt").tenant = "ada"
            kept = KeptModels(store, cache, workers)
            made = make_model(expire_time=time.time() + 1000)
            model = await kept.keep(made, make_arrays())
            held = cache.find(model.id)
            assert held is not None
            erasing = asyncio.create_task(kept.delete_tenant("ada"))
            await asyncio.to_thread(reached.wait)
            cached = cache.used_bytes
            cache.get_or_load(model.id, lambda: held)  # as a call before the burial did
            reading = asyncio.create_task(kept.read(model.id))
            await asyncio.wait([reading], timeout=0)
            go.set()

            assert cached == 0
            assert await erasing == 1
            with pytest.raises(AdaptedModelNotFound):
                await reading
            with pytest.raises(AdaptedModelDeleted):
                await kept.keep(made, make_arrays())

    asyncio.run(main())

    assert cache.used_bytes == 0


def test_a_renewed_model_is_renewed_in_memory(
    store: LocalStore, make_model: Make, make_arrays: Make
) -> None:
    """Only with the etag of now; arrays stay, and with them sessions."""

    async def main() -> None:
        async with open_workers() as workers:
            begin_call("Adapt")
            kept = KeptModels(store, ModelCache(10**7), workers)
            model = await kept.keep(make_model(expire_time=time.time() + 30), make_arrays())
            _, arrays = await kept.read(model.id)

            renewed = await kept.renew(model.id, Renewal(None, 60.0, etag=model.etag), 60.0)
            assert renewed.expire_time > model.expire_time
            found, again = await kept.read(model.id)
            assert found == renewed
            assert again is arrays
            assert await kept.get(model.id) == renewed
            with pytest.raises(EtagMismatch, match=renewed.etag):
                await kept.renew(model.id, Renewal(None, 60.0, etag=model.etag), 60.0)
            with pytest.raises(InvalidRequest):
                await kept.renew(model.id, Renewal(None, 61.0), 60.0)

    asyncio.run(main())
