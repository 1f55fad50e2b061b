"""Stores of schema 1, which had no digests, become those of this release."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kshot.server.errors import (
    AdaptedModelDamaged,
    AdaptedModelDeleted,
    AdaptedModelExpired,
    StartError,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import arrays_bytes
from kshot.server.store.rows import record_text
from kshot.server.store.store import LocalStore

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
OpenStore = Callable[..., LocalStore]
AssertSame = Callable[[AdaptedArrays, AdaptedArrays], None]

SCHEMA_1 = """
CREATE TABLE adapted_models (
    id TEXT PRIMARY KEY, model TEXT NOT NULL, create_time REAL NOT NULL, expire_time REAL NOT NULL,
    size_bytes INTEGER NOT NULL, record TEXT NOT NULL, sha256 TEXT NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX adapted_models_by_age ON adapted_models (create_time, id);
CREATE INDEX adapted_models_by_expiry ON adapted_models (expire_time);
CREATE INDEX adapted_models_by_size ON adapted_models (size_bytes);
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY, expire_time REAL NOT NULL, end_time REAL NOT NULL, deleted INTEGER NOT NULL
);
CREATE INDEX tombstones_by_age ON tombstones (end_time);
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""

DIE_WHILE_MIGRATING = """
import os, signal, sqlite3, sys
from pathlib import Path
from kshot.server.store import schema
from kshot.server.store.store import LocalStore
point = sys.argv[2]
connect = sqlite3.connect
def traced(*arguments, **options):
    connection = connect(*arguments, **options)
    connection.set_trace_callback(
        lambda text: os.kill(os.getpid(), signal.SIGKILL) if text.startswith(point) else None
    )
    return connection
sqlite3.connect = traced
LocalStore.open(Path(sys.argv[1]), max_count=9, max_bytes=10**7, clock=lambda: 1000.0)
"""


@pytest.fixture
def earlier(folder: Path, make_model: MakeModel, make_arrays: MakeArrays) -> Path:
    """A store of schema 1: two models, one that is damaged, one deleted, one expired."""
    (folder / "models").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    connection = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    connection.executescript(SCHEMA_1)
    for seed, model_id in enumerate(("a1", "a2", "bad")):
        content = arrays_bytes(make_arrays(seed))
        (folder / "models" / f"{model_id}.safetensors").write_bytes(content)
        model = replace(make_model(model_id), size_bytes=len(content))
        connection.execute(
            "INSERT INTO adapted_models VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                model_id, model.model, model.create_time, model.expire_time, len(content),
                record_text(model), hashlib.sha256(content).hexdigest(), model_id == "bad",
            ),
        )  # fmt: skip
    connection.executemany(
        "INSERT INTO tombstones VALUES (?, ?, ?, ?)",
        [("gone", 2000.0, 999.0, 1), ("old", 990.0, 990.0, 0)],
    )
    connection.close()
    (folder / "models" / "bad.safetensors").write_bytes(b"?")
    return folder


def check(store: LocalStore, make_arrays: MakeArrays, same: AssertSame) -> None:
    for seed, model_id in enumerate(("a1", "a2")):
        assert store.get(model_id).class_names[1] == "class 1 \N{LATIN SMALL LETTER E WITH ACUTE}"
        same(store.read(model_id), make_arrays(seed))
    for model_id, error in (
        ("bad", AdaptedModelDamaged),
        ("gone", AdaptedModelDeleted),
        ("old", AdaptedModelExpired),
    ):
        with pytest.raises(error):
            store.read(model_id)


@pytest.mark.usefixtures("earlier")
def test_an_earlier_store_opens(
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    for _ in range(2):
        with open_store() as store:
            check(store, make_arrays, assert_same)
            assert len(store.list(9)[0]) == 2


@pytest.mark.parametrize("point", ["REPLACE", "COMMIT"])
def test_a_migration_that_is_killed_happens_or_not(
    earlier: Path,
    open_store: OpenStore,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    point: str,
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DIE_WHILE_MIGRATING, str(earlier), point], check=False
    )

    assert child.returncode == -signal.SIGKILL
    with open_store() as store:
        check(store, make_arrays, assert_same)


def test_a_row_that_contradicts_itself_is_damaged(earlier: Path, open_store: OpenStore) -> None:
    """Nothing tells what is right in a row without a digest; its file is kept for operators."""
    connection = sqlite3.connect(earlier / "index.sqlite3", isolation_level=None)
    connection.execute(
        "UPDATE adapted_models SET record = replace(record, 'a2', 'a3') WHERE id = 'a2'"
    )
    connection.close()
    with open_store() as store:
        with pytest.raises(AdaptedModelDamaged):
            store.read("a2")
        assert [model.id for model in store.list(9)[0]] == ["a1"]
    assert (earlier / "quarantine" / "a2.safetensors").exists()


def test_a_file_without_a_row_is_not_deleted(earlier: Path, open_store: OpenStore) -> None:
    """One bit in an id made the start of an earlier release delete a healthy model."""
    connection = sqlite3.connect(earlier / "index.sqlite3", isolation_level=None)
    connection.execute("UPDATE adapted_models SET id = 'q2' WHERE id = 'a2'")
    connection.close()
    with open_store() as store:
        for model_id in ("a2", "q2"):
            with pytest.raises(AdaptedModelDamaged):
                store.read(model_id)
    assert (earlier / "quarantine" / "a2.safetensors").exists()


def test_a_newer_store_is_left_as_it_is(earlier: Path, open_store: OpenStore) -> None:
    index = earlier / "index.sqlite3"
    connection = sqlite3.connect(index, isolation_level=None)
    connection.execute("PRAGMA user_version = 3")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = index.read_bytes()

    with pytest.raises(StartError, match="got 3: a newer release of kshot wrote this store; start"):
        open_store()
    assert index.read_bytes() == before
