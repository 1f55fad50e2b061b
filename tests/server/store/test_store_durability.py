"""An acknowledged model is served after a crash; one that was not is whole or unknown."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelNotFound,
)
from kshot.server.store import writer
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import DiskFull
from kshot.server.store.files import fill
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.rows import AnsweredRequest
from kshot.server.store.writer import Parts

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from kshot.server.request.options import AdaptOptions, Durability
from kshot.server.store import writer
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore
from kshot.server.store.files import StoreFiles
from kshot.server.store.tables.index import StoreIndex

def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def both(*args, **options):
        function(*args, **options)
        die()
    return both

def write_half(file, parts):
    content = b"".join(parts)
    file.write(content[: len(content) // 2])
    file.flush()
    die()

def die_at(statement):
    store._index._connection.set_trace_callback(
        lambda text: die() if text.startswith(statement) else None
    )

def put(model_id, seed, durability='disk'):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(64, 64)).astype(np.float32)
    support = random.normal(size=(5, 1, 4, 4)).astype(np.float32)
    arrays = AdaptedArrays({"head.weight": weights}, {"mean": weights[0]}, support)
    digests = ("b", "c", "d")
    choices = ("carried", "trained", "all", "support")
    switches = (False, False, True, False, 0, 2.0, True, False)
    options = AdaptOptions(10, 0.001, 5, *choices, seed, 1e3, *switches, Durability(durability))
    facts = (("x", "y"), options, 1.0, 2e3, 0, 3, 0.5)
    store.put(AdaptedModelRecord(model_id, "tiny", *digests, *facts), arrays)
    print(model_id, flush=True)

store = LocalStore.open(Path(sys.argv[1]), max_count=9999, max_bytes=10**9, clock=lambda: 1e3)
"""

UNKNOWN = {
    "before the row": "StoreIndex.insert = die",
    "in the row": "die_at('INSERT INTO adapted_models')",
    "before the commit": "die_at('COMMIT')",
    "after the commit": "StoreIndex.insert = then_die(StoreIndex.insert)",
    "before the file": "StoreFiles.create = die",
    "in the file": "writer.fill = write_half",
}
WHOLE = {
    "after the file": "writer.fill = then_die(writer.fill)",
    "before the name": "StoreFiles.finish = die",
    "after the name": "StoreFiles.finish = then_die(StoreFiles.finish)",
    "before it counts": "StoreIndex.settle = die",
    "after the answer": "print = then_die(print)",
}


def open_store(folder: Path) -> LocalStore:
    return LocalStore.open(folder, max_count=9999, max_bytes=10**9, clock=lambda: 1000.0)


def run_child(folder: Path, code: str) -> tuple[int, list[str]]:
    """Run code in a process of its own; return its exit status and the ids it acknowledged."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD + code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return child.returncode, child.stdout.split()


def assert_whole(store: LocalStore, model_id: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.normal(size=(64, 64)).astype(np.float32)
    arrays = store.read(model_id)
    np.testing.assert_array_equal(arrays.parameters["head.weight"], weights)
    np.testing.assert_array_equal(arrays.statistics["mean"], weights[0])
    assert store.get(model_id).options.seed == seed


@pytest.mark.parametrize("point", UNKNOWN | WHOLE)
def test_a_killed_put_is_whole_or_unknown(tmp_path: Path, point: str) -> None:
    """An acknowledged put is served, unless in memory; any other is whole or unknown.

    Nothing else leaves a file.
    """
    code = "put('earlier', 1)\nput('memory', 3, 'memory')\n"
    code += f"{(UNKNOWN | WHOLE)[point]}\nput('victim', 2)\n"
    status, acknowledged = run_child(tmp_path, code)

    assert status == -signal.SIGKILL
    last = ["victim"] if point == "after the answer" else []
    assert acknowledged == ["earlier", "memory", *last]
    assert (tmp_path / "models" / "memory.memory").exists()
    with open_store(tmp_path) as store:
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("memory")
        assert_whole(store, "earlier", 1)
        if point in WHOLE:
            assert_whole(store, "victim", 2)
        else:
            with pytest.raises(AdaptedModelNotFound, match="there is no"):
                store.get("victim")
        listed = {f"{model.id}.safetensors" for model in store.list(9)[0]}
        assert {path.name for path in (tmp_path / "models").iterdir()} == listed

    _, acknowledged = run_child(tmp_path, "put('later', 3)")

    assert acknowledged == ["later"]


@pytest.mark.parametrize("count", [1, 7, 23])
def test_acknowledged_models_survive_a_kill(tmp_path: Path, count: int) -> None:
    code = "for seed in range(9999): put(f'm{seed}', seed)"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD + code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().strip() for _ in range(count)]
        child.kill()
        acknowledged += child.stdout.read().split()

    with open_store(tmp_path) as store:
        for seed, model_id in enumerate(acknowledged):
            assert model_id == f"m{seed}"
            assert_whole(store, model_id, seed)


def test_a_killed_delete_stays_deleted(tmp_path: Path) -> None:
    code = "put('victim', 1)\nStoreFiles.remove = die\nstore.delete('victim')"
    status, _ = run_child(tmp_path, code)

    assert status == -signal.SIGKILL
    assert (tmp_path / "models" / "victim.safetensors").exists()
    with open_store(tmp_path) as store, pytest.raises(AdaptedModelDeleted):
        store.get("victim")
    assert not (tmp_path / "models" / "victim.safetensors").exists()


def test_a_killed_quarantine_is_finished(tmp_path: Path) -> None:
    code = (
        "put('victim', 1)\n"
        "(Path(sys.argv[1]) / 'models' / 'victim.safetensors').write_bytes(b'?')\n"
        "StoreIndex.mark_damaged = die\n"
        "store.read('victim')"
    )
    status, _ = run_child(tmp_path, code)

    assert status == -signal.SIGKILL
    with open_store(tmp_path) as store, pytest.raises(AdaptedModelDamaged):
        store.read("victim")


class Disk:
    """What a power cut would leave of a store's folder: what was synced, and no more."""

    def __init__(self, folder: Path, *, lost: str = "") -> None:
        """Watch a folder; `lost` is a kind of sync that the disk does not do."""
        self.folder = folder
        self._lost = lost
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: dict[str, int] = {}
        self._log = (folder / "index.sqlite3-wal").read_bytes()

    def fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode) and self._lost != "content":
            self._contents[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        if stat.S_ISDIR(status.st_mode) and self._lost != "name":
            names = (self.folder / "models").iterdir()
            self._names = {path.name: path.stat().st_ino for path in names}

    def fdatasync(self, descriptor: int) -> None:
        if self._lost != "row":
            self._log = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def write(self, folder: Path) -> None:
        """Write what is left."""
        (folder / "models").mkdir(mode=0o700, parents=True)
        folder.chmod(0o700)
        for name, inode in self._names.items():
            (folder / "models" / name).write_bytes(self._contents.get(inode, b""))
        # SQLite syncs the index itself whenever it takes the log in.
        (folder / "index.sqlite3").write_bytes((self.folder / "index.sqlite3").read_bytes())
        (folder / "index.sqlite3-wal").write_bytes(self._log)
        for path in folder.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("lost", ["", "content", "name", "row"])
def test_an_acknowledged_model_survives_a_power_cut(
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """A kill alone would not show a missing sync: with any of the three lost, nothing is left."""
    open_store(tmp_path / "store").close()
    request = AnsweredRequest("", "id", "digest", "a1", b"answer", 2000.0)
    with open_store(tmp_path / "store") as store:
        disk = Disk(tmp_path / "store", lost=lost)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
        store.put(make_model(), make_arrays(), lambda _: request)
        disk.write(tmp_path / "left")
        monkeypatch.undo()

    with open_store(tmp_path / "left") as store:
        if not lost:
            np.testing.assert_array_equal(store.read("a1").support, make_arrays().support)
            assert store.find_request("id") == request
        else:
            with pytest.raises(AdaptedModelNotFound, match="there is no"):
                store.get("a1")
            assert store.find_request("id") is None
            assert store.use() == (0, 0)
        assert store.list(9)[0] == ([] if lost else [store.get("a1")])
    kept = {path.name for path in (tmp_path / "left" / "models").iterdir()}
    assert kept == (set() if lost else {"a1.safetensors"})


def test_a_change_waits_for_its_row(
    tmp_path: Path, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """SQLite waits by itself wherever `LocalStore.put` does not."""
    with open_store(tmp_path) as store:
        store.put(make_model(), make_arrays())
        settings = [
            store._index._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous")
        ]

    assert settings == ["wal", 2]  # 2 is FULL


@pytest.mark.parametrize("deletion", ["delete", "erase"])
def test_what_is_deleted_before_it_is_whole_is_gone(
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    deletion: str,
) -> None:
    with open_store(tmp_path) as store:

        def then_delete(file: BinaryIO, parts: Parts) -> None:
            fill(file, parts)
            with pytest.raises(AdaptedModelNotFound, match="there is no"):
                store.get("a1")
            assert not store.list(9)[0]
            if deletion == "erase":
                assert store.delete_tenant("") == 1
            else:
                store._graves.delete("a1", store.now())

        monkeypatch.setattr(writer, "fill", then_delete)
        with pytest.raises(AdaptedModelDeleted):
            store.put(make_model(), make_arrays())
        assert store.use() == (0, 0)
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    "place",
    [
        "os.open",
        "os.fsync",
        "pathlib.Path.rename",
        "kshot.server.store.files.sync_folder",
        "os.fdatasync",
        "kshot.server.store.tables.index.StoreIndex.insert",
        "kshot.server.store.tables.index.StoreIndex.settle",
    ],
)
def test_a_full_disk_leaves_no_partial_file(
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Earlier models stay readable, and the same id can be put again."""

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with open_store(tmp_path) as store:
        store.put(make_model("earlier"), make_arrays())
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            with pytest.raises(
                DiskFull, match=r"^the store's files failed: No space left on device"
            ):
                store.put(make_model("victim"), make_arrays())

        assert [path.name for path in (tmp_path / "models").iterdir()] == ["earlier.safetensors"]
        assert store.read("earlier").support.shape == (5, 1, 4, 4)
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("victim")
        store.put(make_model("victim"), make_arrays())
        assert store.read("victim").support.shape == (5, 1, 4, 4)


def test_an_index_that_cannot_grow_is_a_full_disk_too(
    tmp_path: Path, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    with open_store(tmp_path) as store:
        connection = store._index._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull, match="index failed: database or disk is full"):
            for index in range(1000):
                store.put(make_model(f"m{index}"), make_arrays())

        kept = {model.id for model in store.list(1000)[0]}
        assert kept
        assert {path.stem for path in (tmp_path / "models").iterdir()} == kept


def test_a_short_write_is_undone(tmp_path: Path) -> None:
    """The limit on a file's size stands for a disk that fills up in the middle of a file."""
    code = """
import resource
put('earlier', 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    put('victim', 2)
except Exception as error:
    print(type(error).__name__)
print(*os.listdir(Path(sys.argv[1]) / 'models'))
"""
    status, lines = run_child(tmp_path, code)

    assert status == 0
    assert lines == ["earlier", "StoreFailed", "earlier.safetensors"]
    with open_store(tmp_path) as store:
        assert_whole(store, "earlier", 1)
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("victim")
