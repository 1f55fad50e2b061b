"""An acknowledged model is served after a crash; one that was not is whole or unknown."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelNotFound,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.failures import DiskFull
from kshot.server.store.index import StoreIndex
from kshot.server.store.rows import Row
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from kshot.server.request.options import AdaptOptions
from kshot.server.store import files as store_files
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore
from kshot.server.store.files import StoreFiles
from kshot.server.store.index import StoreIndex

def die(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def both(*args, **options):
        function(*args, **options)
        die()
    return both

def write_half(files, model_id, parts):
    content = b"".join(parts)
    files._partial(model_id).write_bytes(content[: len(content) // 2])
    die()

def die_at(statement):
    store._index._connection.set_trace_callback(
        lambda text: die() if text.startswith(statement) else None
    )

def put(model_id, seed):
    random = np.random.default_rng(seed)
    weights = random.normal(size=(64, 64)).astype(np.float32)
    support = random.normal(size=(5, 1, 4, 4)).astype(np.float32)
    arrays = AdaptedArrays({"head.weight": weights}, {"mean": weights[0]}, support)
    digests = ("b", "c", "d")
    choices = ("carried", "trained", "all", "support")
    switches = (False, False, True, False, 0, 2.0, True, False)
    options = AdaptOptions(10, 0.001, 5, *choices, seed, 1e3, *switches)
    facts = (("x", "y"), options, 1.0, 2e3, 0, 3, 0.5)
    store.put(AdaptedModelRecord(model_id, "tiny", *digests, *facts), arrays)
    print(model_id, flush=True)

store = LocalStore.open(Path(sys.argv[1]), max_count=9999, max_bytes=10**9, clock=lambda: 1e3)
"""

KILL_POINTS = {
    "before the file": "StoreFiles.write = die",
    "in the file": "StoreFiles.write = write_half",
    "after the file": "store_files.sync_folder = die",
    "before the row": "StoreIndex.insert = die",
    "in the row": "die_at('INSERT INTO adapted_models')",
    "before the commit": "die_at('COMMIT')",
    "after the commit": "StoreIndex.insert = then_die(StoreIndex.insert)",
    "after the name": "StoreFiles.finish = then_die(StoreFiles.finish)",
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


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_killed_put_is_whole_or_unknown(tmp_path: Path, point: str) -> None:
    """An acknowledged put is served; any other is whole or unknown, and leaves no file."""
    code = f"put('earlier', 1)\n{KILL_POINTS[point]}\nput('victim', 2)\n"
    status, acknowledged = run_child(tmp_path, code)

    assert status == -signal.SIGKILL
    assert acknowledged == (["earlier", "victim"] if point == "after the answer" else ["earlier"])
    with open_store(tmp_path) as store:
        assert_whole(store, "earlier", 1)
        if point in ("after the commit", "after the name", "after the answer"):
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


def test_a_put_syncs_file_name_and_row_in_order(
    tmp_path: Path,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a power cut may lose: a kill alone would not show a missing sync."""
    store = open_store(tmp_path)
    steps: list[str] = []
    fsync, rename, insert = os.fsync, Path.rename, StoreIndex.insert

    def log_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if folder else "sync file")
        fsync(descriptor)

    def log_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    def log_insert(index: StoreIndex, row: Row, *request: None) -> None:
        steps.append("row")
        insert(index, row, *request)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(Path, "rename", log_rename)
    monkeypatch.setattr(StoreIndex, "insert", log_insert)
    store.put(make_model(), make_arrays())
    settings = [
        store._index._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    ]
    store.close()

    assert steps == ["sync file", "sync folder", "row", "rename"]
    assert settings == ["wal", 2]  # 2 is FULL


@pytest.mark.parametrize(
    "place",
    [
        "os.open",
        "os.fsync",
        "pathlib.Path.rename",
        "kshot.server.store.files.sync_folder",
        "kshot.server.store.index.StoreIndex.insert",
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
