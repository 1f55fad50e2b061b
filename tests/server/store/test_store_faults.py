"""Faults of the system while a store is open: what cannot be read now is not damaged."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kshot.server import server
from kshot.server.errors import AdaptedModelDamaged, StartError
from kshot.server.event_log import short_id, without_ids
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import StoreFailed
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]
FileOf = Callable[[str], Path]

ID = "am-" + "abcdefgh" + "2" * 18


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_read_now_is_kept(
    store: LocalStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    assert_same: AssertSame,
    number: int,
) -> None:
    real = os.open

    def fail(path: Any, *arguments: Any, **options: Any) -> int:  # noqa: ANN401 -- the original's
        if str(path).endswith(".safetensors"):
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    store.put(make_model(), make_arrays())
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        with pytest.raises(StoreFailed, match=os.strerror(number)) as caught:
            store.read("a1")
    assert "a1" not in str(caught.value)

    assert_same(store.read("a1"), make_arrays())


def test_a_folder_that_is_away_damages_nothing(
    store: LocalStore,
    folder: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    """A volume that is not mounted, or an empty folder in its place."""
    store.put(make_model(), make_arrays())
    (folder / "models").rename(folder / "away")
    for _ in range(2):
        with pytest.raises(StoreFailed, match="the folder of models is another one, or away"):
            store.read("a1")
        (folder / "models").mkdir(exist_ok=True)
    (folder / "models").rmdir()
    (folder / "away").rename(folder / "models")

    assert_same(store.read("a1"), make_arrays())


def test_a_row_that_changes_is_damaged_until_the_next_start(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    """The others go on, and a time that was changed expires nothing."""
    with open_store() as store:
        for seed, model_id in enumerate(("a1", "a2", "a3")):
            store.put(make_model(model_id), make_arrays(seed))
        store._index._connection.execute(
            "UPDATE adapted_models SET record = replace(record, 'class 1', 'class 7'), "
            "expire_time = 1001.0 WHERE id = 'a2'"
        )
        clock.now = 1500.0

        assert store.sweep() == 0
        for call in (store.get, store.read):
            with pytest.raises(AdaptedModelDamaged):
                call("a2")
        assert [model.id for model in store.list(2)[0]] == ["a1", "a3"]
    with open_store() as store:
        assert store.get("a2").class_names == make_model().class_names
        assert_same(store.read("a2"), make_arrays(1))
        assert len(store.list(9)[0]) == 3


def test_a_file_that_is_brought_back_is_whole_again(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    file_of: FileOf,
) -> None:
    with open_store() as store:
        store.put(make_model(), make_arrays())
        content = file_of("a1").read_bytes()
        file_of("a1").write_bytes(content[:-1])
        with pytest.raises(AdaptedModelDamaged):
            store.read("a1")
    file_of("a1").write_bytes(content)

    with open_store() as store:
        assert_same(store.read("a1"), make_arrays())


def test_one_file_that_stays_does_not_keep_the_others(
    store: LocalStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    file_of: FileOf,
) -> None:
    for index in range(3):
        store.put(make_model(f"a{index}", expire_time=1500.0), make_arrays())
    clock.now = 1500.0
    unlink = Path.unlink

    def fail(path: Path, **options: Any) -> None:  # noqa: ANN401 -- the original's
        if path.name == "a1.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        unlink(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        with pytest.raises(StoreFailed):
            store.sweep()
        assert [path.name for path in file_of("a1").parent.iterdir()] == ["a1.safetensors"]
    store.sweep()

    assert list(file_of("a1").parent.iterdir()) == []


@pytest.mark.usefixtures("store")
def test_the_index_is_this_process_own(folder: Path) -> None:
    """Another program waits and is refused: it cannot hold up or change the index."""
    other = sqlite3.connect(folder / "index.sqlite3", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM adapted_models")
    other.close()


def test_an_index_that_another_program_has_is_refused(
    open_store: OpenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kshot.server.store.tables.index._LONGEST_WAIT", 0.0)
    open_store().close()
    other = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StartError, match="in use by another program; close it"):
        open_store()
    other.close()

    open_store().close()


def test_sweeps_go_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails is logged each time."""
    results: list[object] = [StoreFailed("the store's files failed"), RuntimeError("bug"), 3]

    async def main() -> None:
        stop = asyncio.Event()

        async def brief(_function: Callable[[], int]) -> object:
            result = results.pop(0)
            if not results:
                stop.set()
            if isinstance(result, Exception):
                raise result
            return result

        workers: Any = SimpleNamespace(brief=brief)
        await server._sweep(SimpleNamespace(sweep=None), workers, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "_SWEEP_SECONDS", 0.001)
    with caplog.at_level(logging.INFO):
        asyncio.run(main())

    assert caplog.messages == ["store_failed", "failure", "expired"]


def test_ids_are_shortened() -> None:
    """Who knows an id can use the model: the log must not tell it."""
    short = "am-abcdefgh\N{HORIZONTAL ELLIPSIS}"
    assert short_id(ID) == short
    assert short_id("") == ""
    assert (
        without_ids(f"/s/models/{ID}.safetensors: {ID}")
        == f"/s/models/{short}.safetensors: {short}"
    )
