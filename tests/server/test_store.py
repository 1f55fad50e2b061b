from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kshot.server.adapted_model import AdaptedArrays, AdaptedModel
from kshot.server.store import (
    BadPageToken,
    DamagedModel,
    DeletedId,
    ExpiredId,
    LocalStore,
    MalformedId,
    StoreFailed,
    StoreFull,
    TakenId,
    UnknownId,
)
from kshot.server.store_files import arrays_bytes

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModel]

DAY = 24 * 3600.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path, clock: Clock) -> Iterator[LocalStore]:
    with LocalStore.open(folder, max_count=100, max_bytes=10**7, clock=clock) as opened:
        yield opened


def file_of(folder: Path, model_id: str) -> Path:
    return folder / "models" / f"{model_id}.safetensors"


def assert_same(got: AdaptedArrays, wanted: AdaptedArrays) -> None:
    np.testing.assert_array_equal(got.support, wanted.support)
    for part in ("parameters", "statistics"):
        mine, theirs = getattr(got, part), getattr(wanted, part)
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].dtype == np.float32
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_what_is_put_is_read_back_bit_for_bit(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    arrays = make_arrays(4, way=7)
    kept = store.put(make_model(way=7), arrays)

    assert kept == replace(make_model(way=7), size_bytes=len(arrays_bytes(arrays)))
    assert store.get("a1") == kept
    assert_same(store.read("a1"), arrays)


def test_arrays_that_are_read_cannot_be_changed(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    store.put(make_model(), make_arrays())

    with pytest.raises(ValueError, match="read-only"):
        store.read("a1").parameters["head.bias"][0] = 1


def test_all_is_there_after_opening_again(
    store: LocalStore, folder: Path, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    kept = [store.put(make_model(f"a{index}"), make_arrays(index)) for index in range(3)]
    store.delete("a1")
    store.close()

    with LocalStore.open(folder, max_count=100, max_bytes=10**7, clock=clock) as again:
        assert [again.get("a0"), again.get("a2")] == [kept[0], kept[2]]
        assert_same(again.read("a2"), make_arrays(2))
        with pytest.raises(DeletedId):
            again.get("a1")


def test_files_are_private(
    store: LocalStore, folder: Path, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    store.put(make_model(), make_arrays())

    for path in (folder, folder / "models", folder / "quarantine", folder / "index.sqlite3"):
        assert path.stat().st_mode & 0o077 == 0


class TestIds:
    @pytest.mark.parametrize(
        "model_id",
        [
            "",
            ".",
            "..",
            "../a1",
            "a/b",
            "a\0b",
            "-a",
            "_a",
            "a b",
            "é",
            "a" * 65,
            "x" * 65536,
            "a\n",
        ],
    )
    def test_a_malformed_id_is_refused_before_it_becomes_a_path(
        self,
        store: LocalStore,
        folder: Path,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        model_id: str,
    ) -> None:
        before = sorted(folder.parent.rglob("*"))
        calls: list[Callable[[], object]] = [
            lambda: store.get(model_id),
            lambda: store.read(model_id),
            lambda: store.delete(model_id),
            lambda: store.put(make_model(model_id), make_arrays()),
        ]
        for call in calls:
            with pytest.raises(MalformedId) as caught:
                call()
            assert len(str(caught.value)) < 400

        assert sorted(folder.parent.rglob("*")) == before

    def test_an_id_that_was_never_there_is_unknown(self, store: LocalStore) -> None:
        for call in (store.get, store.read, store.delete):
            with pytest.raises(UnknownId, match="there is no adapted model 'never'"):
                call("never")

    def test_an_id_is_used_once(
        self, store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        store.put(make_model(), make_arrays(1))

        with pytest.raises(TakenId):
            store.put(make_model(), make_arrays(2))
        assert_same(store.read("a1"), make_arrays(1))

        store.delete("a1")
        with pytest.raises(TakenId):
            store.put(make_model(), make_arrays(2))


class TestDelete:
    def test_leaves_no_file_and_remembers(
        self, store: LocalStore, folder: Path, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        store.put(make_model(), make_arrays())
        store.delete("a1")

        assert list((folder / "models").iterdir()) == []
        for call in (store.get, store.read, store.delete):
            with pytest.raises(DeletedId):
                call("a1")

    def test_a_read_that_races_with_it_says_deleted_not_damaged(
        self,
        store: LocalStore,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        store.put(make_model(), make_arrays())
        read = store._files.read

        def delete_first(model_id: str) -> bytes:
            store.delete(model_id)
            return read(model_id)

        monkeypatch.setattr(store._files, "read", delete_first)

        with pytest.raises(DeletedId):
            store.read("a1")

    def test_a_file_that_could_not_be_removed_goes_with_the_next_sweep(
        self,
        store: LocalStore,
        folder: Path,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(_model_id: str) -> None:
            raise OSError(5, "Input/output error")

        store.put(make_model(), make_arrays())
        with monkeypatch.context() as patched:
            patched.setattr(store._files, "remove", fail)
            with pytest.raises(StoreFailed, match="Input/output error"):
                store.delete("a1")
        store.sweep()

        assert not file_of(folder, "a1").exists()
        with pytest.raises(DeletedId):
            store.get("a1")


class TestExpiry:
    def test_an_expired_model_is_gone_before_and_after_the_sweep(
        self,
        store: LocalStore,
        folder: Path,
        clock: Clock,
        make_model: MakeModel,
        make_arrays: MakeArrays,
    ) -> None:
        store.put(make_model("short", expire_time=1500.0), make_arrays())
        store.put(make_model("long", expire_time=9000.0), make_arrays())
        clock.now = 1500.0

        for swept in (0, 1):
            for call in (store.get, store.read, store.delete):
                with pytest.raises(ExpiredId) as caught:
                    call("short")
                assert caught.value.expire_time == 1500.0
            assert store.sweep() == 1 - swept
        assert [path.name for path in (folder / "models").iterdir()] == ["long.safetensors"]
        assert store.get("long").id == "long"

    def test_tombstones_go_after_seven_days(
        self, store: LocalStore, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        store.put(make_model("deleted"), make_arrays())
        store.put(make_model("expired", expire_time=1000.5), make_arrays())
        store.delete("deleted")
        clock.now = 1001.0
        store.sweep()
        clock.now = 1000.0 + 7 * DAY - 1
        store.sweep()

        with pytest.raises(DeletedId):
            store.get("deleted")
        with pytest.raises(ExpiredId):
            store.get("expired")

        clock.now = 1001.0 + 7 * DAY
        store.sweep()

        for model_id in ("deleted", "expired"):
            with pytest.raises(UnknownId):
                store.get(model_id)


class TestCaps:
    def test_the_number_is_capped(
        self, folder: Path, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        with LocalStore.open(folder, max_count=2, max_bytes=10**7, clock=clock) as store:
            for model_id in ("a", "b"):
                store.put(make_model(model_id), make_arrays())
            with pytest.raises(StoreFull, match="2 of 2 models used, 1 more wanted") as caught:
                store.put(make_model("c"), make_arrays())
            assert (caught.value.unit, caught.value.limit, caught.value.used) == ("models", 2, 2)
            with pytest.raises(UnknownId):
                store.get("c")

            store.delete("a")
            store.put(make_model("c"), make_arrays())

    def test_the_bytes_are_capped(
        self, folder: Path, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        size = len(arrays_bytes(make_arrays()))
        with LocalStore.open(folder, max_count=9, max_bytes=2 * size, clock=clock) as store:
            store.put(make_model("a"), make_arrays())
            store.put(make_model("b"), make_arrays())
            with pytest.raises(StoreFull, match=f"{2 * size} of {2 * size} bytes used") as caught:
                store.put(make_model("c"), make_arrays())

            assert caught.value.needed == size

    def test_what_has_expired_makes_room(
        self, folder: Path, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        with LocalStore.open(folder, max_count=1, max_bytes=10**7, clock=clock) as store:
            store.put(make_model("a", expire_time=1500.0), make_arrays())
            clock.now = 1500.0
            store.put(make_model("b"), make_arrays())

            with pytest.raises(ExpiredId):
                store.get("a")

    def test_puts_at_once_never_pass_the_cap(
        self, folder: Path, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        barrier = threading.Barrier(8)

        def put(index: int) -> bool:
            barrier.wait(10)
            try:
                store.put(make_model(f"m{index}"), make_arrays())
            except StoreFull:
                return False
            return True

        with (
            LocalStore.open(folder, max_count=3, max_bytes=10**7, clock=clock) as store,
            ThreadPoolExecutor(8) as pool,
        ):
            assert sum(pool.map(put, range(8))) == 3
            assert len(store.list(10)[0]) == 3


class TestList:
    def test_pages_go_through_all_in_order_once(
        self, store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        times = {"c": 1.0, "a": 2.0, "b": 2.0, "e": 0.1 + 0.2, "d": 3.0}
        for model_id, create_time in times.items():
            store.put(make_model(model_id, create_time=create_time), make_arrays())
        seen, token = [], ""
        while True:
            page, token = store.list(2, token)
            seen += [model.id for model in page]
            if not token:
                break

        assert seen == ["e", "c", "a", "b", "d"]

    def test_a_page_stays_in_place_when_models_come_and_go(
        self, store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        for index in range(6):
            store.put(make_model(f"m{index}", create_time=float(index)), make_arrays())
        first, token = store.list(3)
        store.delete("m2")
        store.delete("m3")
        store.put(make_model("early", create_time=0.5), make_arrays())
        second, token = store.list(3, token)

        assert [model.id for model in first] == ["m0", "m1", "m2"]
        assert [model.id for model in second] == ["m4", "m5"]
        assert token == ""

    def test_expired_models_and_those_of_other_models_are_left_out(
        self, store: LocalStore, clock: Clock, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        store.put(make_model("a", expire_time=1500.0), make_arrays())
        store.put(make_model("b"), make_arrays())
        store.put(make_model("c", model="other"), make_arrays())
        clock.now = 1500.0

        assert [model.id for model in store.list(10)[0]] == ["b", "c"]
        assert [model.id for model in store.list(10, model="other")[0]] == ["c"]
        assert store.list(10, model="none") == ([], "")

    @pytest.mark.parametrize(
        "token",
        ["x", "é", "bm9wZQ==", "W10=", "WzEsMixudWxsXQ==", "A" * 65536, "WzFlOTk5LCAiYSIsIG51bGxd"],
    )
    def test_a_token_that_no_page_gave_is_refused(self, store: LocalStore, token: str) -> None:
        with pytest.raises(BadPageToken):
            store.list(2, token)

    def test_a_token_is_for_the_list_that_gave_it(
        self, store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
    ) -> None:
        for index in range(3):
            store.put(make_model(f"m{index}"), make_arrays())
        _, token = store.list(2, model="tiny")

        with pytest.raises(BadPageToken):
            store.list(2, token)
        assert len(store.list(2, token, model="tiny")[0]) == 1


class TestDamage:
    @pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "missing"])
    def test_a_damaged_file_is_lost_for_good_and_others_are_fine(
        self,
        store: LocalStore,
        folder: Path,
        clock: Clock,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        kind: str,
    ) -> None:
        for model_id in ("bad", "good"):
            store.put(make_model(model_id), make_arrays())
        path = file_of(folder, "bad")
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(
                {"flipped": bytes(content), "truncated": bytes(content[:-1]), "emptied": b""}[kind]
            )

        for _ in range(2):
            with pytest.raises(DamagedModel, match="bad is damaged in the store; adapt again"):
                store.read("bad")
        assert not path.exists()
        assert (folder / "quarantine" / path.name).exists() == (kind != "missing")
        assert_same(store.read("good"), make_arrays())
        assert [model.id for model in store.list(10)[0]] == ["good"]

        store.close()
        with LocalStore.open(folder, max_count=9, max_bytes=10**7, clock=clock) as again:
            for call in (again.get, again.read):
                with pytest.raises(DamagedModel):
                    call("bad")
            again.delete("bad")
            with pytest.raises(DeletedId):
                again.get("bad")
            assert list((folder / "quarantine").iterdir()) == []

    def test_an_expired_models_damaged_file_goes_too(
        self,
        store: LocalStore,
        folder: Path,
        clock: Clock,
        make_model: MakeModel,
        make_arrays: MakeArrays,
    ) -> None:
        store.put(make_model(), make_arrays())
        file_of(folder, "a1").write_bytes(b"damaged")
        with pytest.raises(DamagedModel):
            store.read("a1")
        clock.now = 2000.0
        store.sweep()

        assert list((folder / "quarantine").iterdir()) == []
        with pytest.raises(ExpiredId):
            store.read("a1")

    def test_a_refusal_of_the_system_is_not_taken_for_damage(
        self,
        store: LocalStore,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(_model_id: str) -> bytes:
            raise OSError(24, "Too many open files")

        store.put(make_model(), make_arrays())
        with monkeypatch.context() as patched:
            patched.setattr(store._files, "read", fail)
            with pytest.raises(StoreFailed, match="Too many open files"):
                store.read("a1")

        assert_same(store.read("a1"), make_arrays())


def test_threads_that_put_read_list_and_delete_keep_their_own(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    def work(worker: int) -> None:
        for turn in range(8):
            model_id, arrays = f"w{worker}t{turn}", make_arrays(worker * 100 + turn)
            store.put(make_model(model_id), arrays)
            assert_same(store.read(model_id), arrays)
            store.list(3)
            if turn % 2:
                store.delete(model_id)
            store.sweep()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))

    assert len(store.list(100)[0]) == 24


def test_a_closed_store_refuses_and_closing_twice_is_fine(store: LocalStore) -> None:
    store.close()
    store.close()

    with pytest.raises(StoreFailed, match="closed"):
        store.list(1)


def test_errors_of_the_index_name_no_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model_id: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store._index, "row", fail)

    with pytest.raises(StoreFailed, match=r"^the store's index failed: disk I/O error$"):
        store.get("a1")
