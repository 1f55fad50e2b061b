"""What is put is there: the same bytes, under one id, through restarts and for many threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kshot.server.errors import AdaptedModelDeleted, AdaptedModelNotFound
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import model_content
from kshot.server.store.failures import StoreFailed
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]


def test_what_is_put_is_read_back_bit_for_bit(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays, assert_same: AssertSame
) -> None:
    arrays = make_arrays(4, way=7)
    kept = store.put(make_model(way=7), arrays)

    size = model_content(make_model(way=7), arrays).size_bytes
    assert kept == replace(make_model(way=7), size_bytes=size)
    assert store.get("a1") == kept
    assert_same(store.read("a1"), arrays)


def test_a_span_is_kept_in_half_its_bytes(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    basis = np.linspace(-2, 2, 6000, dtype=np.float16).reshape(3, 2000).astype(np.float32)
    center = np.full(2000, 1 / 3, np.float32)
    arrays = replace(make_arrays(), span={"basis": basis, "center": center})

    kept = store.put(make_model(), arrays)
    read = store.read("a1").span

    assert {name: array.tolist() for name, array in read.items()} == {
        "basis": basis.tolist(),
        "center": center.tolist(),
    }
    assert {array.dtype for array in read.values()} == {np.dtype(np.float32)}
    assert basis.nbytes / 2 < kept.size_bytes < basis.nbytes
    assert store.read("a1").size_bytes == arrays.size_bytes > basis.nbytes


def test_arrays_that_are_read_cannot_be_changed(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    store.put(make_model(), make_arrays())

    with pytest.raises(ValueError, match="read-only"):
        store.read("a1").parameters["head.bias"][0] = 1


def test_all_is_there_after_opening_again(
    store: LocalStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    open_store: OpenStore,
    assert_same: AssertSame,
) -> None:
    kept = [store.put(make_model(f"a{index}"), make_arrays(index)) for index in range(3)]
    store.delete("a1")
    store.close()

    with open_store() as again:
        assert [again.get("a0"), again.get("a2")] == [kept[0], kept[2]]
        assert_same(again.read("a2"), make_arrays(2))
        with pytest.raises(AdaptedModelDeleted):
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
    def test_a_malformed_id_is_no_path(
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
            with pytest.raises(ValueError, match="id: expected a match of") as caught:
                call()
            assert len(str(caught.value)) < 400

        assert sorted(folder.parent.rglob("*")) == before

    def test_an_id_that_was_never_there_is_unknown(self, store: LocalStore) -> None:
        for call in (store.get, store.read, store.delete):
            with pytest.raises(AdaptedModelNotFound, match="there is no adapted model never"):
                call("never")

    def test_an_id_is_used_once(
        self,
        store: LocalStore,
        make_model: MakeModel,
        make_arrays: MakeArrays,
        assert_same: AssertSame,
    ) -> None:
        store.put(make_model(), make_arrays(1))

        with pytest.raises(ValueError, match="id: expected a new one"):
            store.put(make_model(), make_arrays(2))
        assert_same(store.read("a1"), make_arrays(1))

        store.delete("a1")
        with pytest.raises(ValueError, match="id: expected a new one"):
            store.put(make_model(), make_arrays(2))


def test_threads_do_not_mix_models(
    store: LocalStore, make_model: MakeModel, make_arrays: MakeArrays, assert_same: AssertSame
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


def test_a_closed_store_refuses(store: LocalStore) -> None:
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
