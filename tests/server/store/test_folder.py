from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kshot.server.errors import AdaptedModelDamaged, AdaptedModelNotFound, StartError
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]

OPEN_WITHOUT_PRIVILEGES = """
import os, sys
from pathlib import Path
from kshot.server.errors import StartError
from kshot.server.store.store import LocalStore
if os.geteuid() == 0:
    os.setuid(65534)
try:
    LocalStore.open(Path(sys.argv[1]), max_count=9, max_bytes=9)
except StartError as error:
    print(error)
"""


def open_store(folder: Path) -> LocalStore:
    return LocalStore.open(folder, max_count=9, max_bytes=10**7, clock=lambda: 1000.0)


@pytest.fixture
def folder(tmp_path: Path, make_model: MakeModel, make_arrays: MakeArrays) -> Path:
    """A closed store that holds one model, a1."""
    path = tmp_path / "deep" / "store"
    with open_store(path) as store:
        store.put(make_model(), make_arrays())
    return path


def give_away(*paths: Path) -> None:
    """Let a child without privileges own paths."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, 65534, -1)


@pytest.fixture
def read_only() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        give_away(folder)
        yield folder
        folder.chmod(0o755)


def test_a_store_in_use_is_refused(folder: Path) -> None:
    with open_store(folder), pytest.raises(StartError, match="in use by another process"):
        open_store(folder)

    open_store(folder).close()


def test_a_store_of_another_process_is_refused(folder: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from kshot.server.store.store import LocalStore\n"
        "store = LocalStore.open(Path(sys.argv[1]), max_count=9, max_bytes=9)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StartError, match="in use by another process"):
            open_store(folder)
        other.kill()

    open_store(folder).close()


def test_a_newer_schema_is_refused(folder: Path) -> None:
    connection = sqlite3.connect(folder / "index.sqlite3")
    connection.execute("PRAGMA user_version = 4")
    connection.execute("DELETE FROM adapted_models")
    connection.commit()
    connection.close()

    with pytest.raises(StartError, match="version 1 to 3, got 4: a newer release"):
        open_store(folder)
    assert (folder / "models" / "a1.safetensors").exists()


@pytest.mark.parametrize("content", [b"these are words, not an index" * 100, None, b""])
def test_files_without_an_index_are_refused(folder: Path, content: bytes | None) -> None:
    """A lost index must not take the models with it, however often the server starts."""
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    if content is not None:
        (folder / "index.sqlite3").write_bytes(content)

    for _ in range(2):
        with pytest.raises(
            StartError, match=r"not a database|expected the index of the stored models"
        ):
            open_store(folder)
    assert (folder / "models" / "a1.safetensors").exists()


def test_what_a_crash_left_is_cleared(folder: Path) -> None:
    models, quarantine = folder / "models", folder / "quarantine"
    for left in (
        models / ".a2.safetensors.0011223344556677.partial",
        models / ".a3.safetensors.partial",
        quarantine / "a4.safetensors",
    ):
        left.write_bytes(b"left behind")
    (models / "notes.txt").write_text("not ours")
    with open_store(folder) as store:
        assert store.read("a1").support.shape == (5, 1, 4, 4)
        with pytest.raises(AdaptedModelNotFound, match="there is no"):
            store.get("a3")

    assert sorted(path.name for path in models.iterdir()) == ["a1.safetensors", "notes.txt"]
    assert [path.name for path in quarantine.iterdir()] == ["a4.safetensors"]


def test_a_row_without_its_file_is_damaged(folder: Path) -> None:
    (folder / "models" / "a1.safetensors").unlink()

    with open_store(folder) as store, pytest.raises(AdaptedModelDamaged):
        store.get("a1")


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")

    for path in (tmp_path / "store", tmp_path / "store" / "below"):
        with pytest.raises(
            StartError,
            match=r"cannot open the store: (File exists|Not a directory); expected a folder",
        ):
            open_store(path)


def test_a_folder_that_cannot_be_written_is_refused(read_only: Path) -> None:
    for path in (read_only, read_only / "below"):
        child = subprocess.run(
            [sys.executable, "-c", OPEN_WITHOUT_PRIVILEGES, str(path)],
            capture_output=True,
            text=True,
            check=True,
        )

        assert child.stdout == (
            f"{path}: cannot open the store: Permission denied; a server writes to its store: make "
            "the folder writable, or choose another one\n"
        )


def test_a_folder_that_was_writable_before_is_refused(read_only: Path) -> None:
    read_only.chmod(0o755)
    os.chown(read_only, os.geteuid(), -1)
    open_store(read_only).close()
    read_only.chmod(0o555)
    (read_only / "models").chmod(0o500)
    give_away(read_only, *read_only.iterdir())
    child = subprocess.run(
        [sys.executable, "-c", OPEN_WITHOUT_PRIVILEGES, str(read_only)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Permission denied; a server writes to its store" in child.stdout
    (read_only / "models").chmod(0o755)
