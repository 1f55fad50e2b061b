"""A full disk: deleting and expiring free room, and need none."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kshot.server.errors import AdaptedModelDeleted, AdaptedModelExpired
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import DiskFull, StoreFailed
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.index import StoreIndex

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
FileOf = Callable[[str], Path]


def no_room(*_arguments: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


@contextmanager
def no_quota(_connection: object) -> Iterator[None]:
    """Take the place of a transaction: the kernel says EDQUOT, and SQLite this."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    raise error
    yield


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of three megabytes in the store's place; skips where none can be mounted."""
    mount = shutil.which("mount")
    folder.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", "size=3m,mode=700", "none", str(folder)]
    if (
        mount is None
        or subprocess.run([mount, *options], check=False, stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte on a disk."""
    with (folder / "others").open("ab", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(512))


def put_until_full(
    store: LocalStore, make: Callable[[int], AdaptedModelRecord], arrays: AdaptedArrays
) -> int:
    for index in range(10_000):
        try:
            store.put(make(index), arrays)
        except DiskFull:
            return index
    raise AssertionError("the disk did not fill")


def test_a_full_disk_is_freed_by_deleting_and_by_expiry(
    small_disk: Path,
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
) -> None:
    arrays = make_arrays(support_count=500)
    with open_store(max_count=9999) as store:
        count = put_until_full(store, lambda index: make_model(f"a{index}"), arrays)
        fill(small_disk)
        for index in range(5):  # one goes, one comes
            store.delete(f"a{index}")
            with pytest.raises(AdaptedModelDeleted):
                store.get(f"a{index}")
            store.put(make_model(f"again{index}", expire_time=9000.0), arrays)
        fill(small_disk)
    with open_store(max_count=9999) as store:  # a start needs no room either
        store.read("again0")
        clock.now = 2000.0
        assert store.sweep() == count - 5
        for index in range(5):
            with pytest.raises(AdaptedModelDeleted):
                store.get(f"a{index}")
        store.put(make_model("more", expire_time=9000.0), arrays)

        assert len(store.list(9)[0]) == len(list((small_disk / "models").iterdir())) == 6


@pytest.mark.parametrize("restart", [False, True])
def test_a_deletion_holds_while_the_index_has_no_room(
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
    restart: bool,
) -> None:
    store = open_store()
    for model_id in ("a1", "a2", "a3"):
        store.put(make_model(model_id), make_arrays())
    with monkeypatch.context() as patched:
        patched.setattr(StoreIndex, "bury", no_room)
        store.delete("a2")
        assert not file_of("a2").exists()
        for _ in range(2):
            with pytest.raises(AdaptedModelDeleted):
                store.delete("a2")
            store.sweep()
        assert [model.id for model in store.list(2)[0]] == ["a1", "a3"]
        assert file_of("a2").with_suffix(".deleted").stat().st_size == 0
    if restart:
        store.close()
        store = open_store()
    store.sweep()

    with store:
        with pytest.raises(AdaptedModelDeleted):
            store.get("a2")
        assert [model.id for model in store.list(9)[0]] == ["a1", "a3"]
        assert sorted(path.name for path in file_of("a2").parent.iterdir()) == [
            "a1.safetensors",
            "a3.safetensors",
        ]


def test_an_expiry_goes_on_while_the_index_has_no_room(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_store()
    store.put(make_model("a1", expire_time=1500.0), make_arrays())
    clock.now = 1500.0
    with monkeypatch.context() as patched:
        patched.setattr(StoreIndex, "sweep", no_room)
        with pytest.raises(DiskFull):
            store.sweep()
    assert [path.name for path in file_of("a1").parent.iterdir()] == ["a1.expired"]
    store.close()

    with open_store() as store:
        with pytest.raises(AdaptedModelExpired):
            store.get("a1")
        assert list(file_of("a1").parent.iterdir()) == []


def test_each_sweep_without_room_frees_more_files(
    store: LocalStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for index in range(7):
        store.put(make_model(f"a{index}", expire_time=1500.0), make_arrays())
    clock.now = 1500.0
    monkeypatch.setattr("kshot.server.store.graves._EMPTY_AT_ONCE", 3)
    left = []
    with monkeypatch.context() as patched:
        patched.setattr(StoreIndex, "sweep", no_room)
        for _ in range(4):
            with pytest.raises(DiskFull):
                store.sweep()
            left.append(len(list(file_of("a1").parent.glob("*.safetensors"))))

    assert left == [4, 1, 0, 0]
    assert store.sweep() == 7
    assert list(file_of("a1").parent.iterdir()) == []


def test_a_used_up_quota_is_freed_as_a_full_disk_is(
    open_store: OpenStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_store() as store:
        for model_id in ("a1", "a2"):
            store.put(make_model(model_id, expire_time=1500.0), make_arrays())
        with monkeypatch.context() as patched:
            patched.setattr("kshot.server.store.tables.index.transaction", no_quota)
            store.delete("a1")
            with pytest.raises(AdaptedModelDeleted):
                store.get("a1")
            clock.now = 1500.0
            with pytest.raises(StoreFailed):
                store.sweep()
        names = sorted(path.name for path in file_of("a1").parent.iterdir())
        assert names == ["a1.deleted", "a2.expired"]
        assert store.sweep() == 1
        with pytest.raises(AdaptedModelDeleted):
            store.get("a1")


def test_expiry_does_not_wait_for_room_for_later(
    store: LocalStore,
    clock: SimpleNamespace,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.put(make_model("a1", expire_time=1500.0), make_arrays())
    clock.now = 1500.0

    def refuse(_index: StoreIndex) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(StoreIndex, "hold_room", refuse)
    with pytest.raises(StoreFailed):
        store.sweep()

    assert not file_of("a1").exists()
