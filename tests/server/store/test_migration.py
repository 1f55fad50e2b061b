"""Stores of schema 1, without digests, and 2, without tenants, become those of this release."""

from __future__ import annotations

import hashlib
import json
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
    AdaptedModelNotFound,
    StartError,
)
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import arrays_bytes
from kshot.server.store.folder import StoreFolder
from kshot.server.store.store import LocalStore
from kshot.server.store.tables.rows import Value, digest, record_text

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

SCHEMA_2 = """
CREATE TABLE adapted_models (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    create_time REAL NOT NULL,
    expire_time REAL NOT NULL,
    size_bytes INTEGER NOT NULL,
    record TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    damaged INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX adapted_models_by_age ON adapted_models (create_time, id);
CREATE INDEX adapted_models_by_expiry ON adapted_models (expire_time);
CREATE INDEX adapted_models_by_size ON adapted_models (size_bytes);
CREATE TABLE tombstones (
    id TEXT PRIMARY KEY,
    expire_time REAL NOT NULL,
    end_time REAL NOT NULL,
    deleted INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE INDEX tombstones_by_age ON tombstones (end_time);
CREATE TABLE clock (
    boot TEXT NOT NULL,
    wall REAL NOT NULL,
    elapsed REAL NOT NULL,
    skipped REAL NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE room (content BLOB NOT NULL);
PRAGMA user_version = 2;
PRAGMA journal_mode = WAL;
"""

# The fields of a record in these releases.
RECORD = (
    "id", "model", "bundle_digest", "weights_digest", "adaptation_digest", "class_names",
    "options", "create_time", "expire_time", "size_bytes", "step_count", "support_accuracy",
)  # fmt: skip

DIE_WHILE_MIGRATING = """
import os, signal, sqlite3, sys
from pathlib import Path
from kshot.server.store.tables import schema
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
    return fill(folder, 1, make_model, make_arrays)


def fill(folder: Path, schema: int, make_model: MakeModel, make_arrays: MakeArrays) -> Path:
    (folder / "models").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    connection = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    connection.executescript({1: SCHEMA_1, 2: SCHEMA_2}[schema])

    def insert(table: str, *columns: Value) -> None:
        columns = columns if schema == 1 else (*columns, digest(columns))
        places = ", ".join("?" * len(columns))
        connection.execute(f"INSERT INTO {table} VALUES ({places})", columns)  # noqa: S608 -- our own names

    for seed, model_id in enumerate(("a1", "a2", "bad")):
        content = arrays_bytes(make_arrays(seed))
        (folder / "models" / f"{model_id}.safetensors").write_bytes(content)
        model = replace(make_model(model_id), size_bytes=len(content))
        fields = json.loads(record_text(model))
        text = json.dumps({name: fields[name] for name in RECORD})
        sha256 = hashlib.sha256(content).hexdigest()
        times = (model.create_time, model.expire_time)
        damaged = int(model_id == "bad")
        insert("adapted_models", model_id, model.model, *times, len(content), text, sha256, damaged)
    insert("tombstones", "gone", 2000.0, 999.0, 1)
    insert("tombstones", "old", 990.0, 990.0, 0)
    if schema == 2:
        insert("clock", "given", 1000.0, 1000.0, 0.0)
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


@pytest.mark.parametrize("schema", [1, 2])
def test_an_earlier_store_opens(
    folder: Path,
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    schema: int,
) -> None:
    """What it holds belongs to the tenant of a server without keys."""
    fill(folder, schema, make_model, make_arrays)
    for _ in range(2):
        with open_store() as store:
            check(store, make_arrays, assert_same)
            assert len(store.list(9)[0]) == 2
            assert store.use("") == store.use()
            with pytest.raises(AdaptedModelNotFound) as caught:
                store.read("a1", "other")
            assert caught.type is AdaptedModelNotFound


def test_a_changed_row_of_schema_2_is_not_believed(
    folder: Path, open_store: OpenStore, make_model: MakeModel, make_arrays: MakeArrays
) -> None:
    """Its file says what it is, here nothing: it has no record."""
    fill(folder, 2, make_model, make_arrays)
    connection = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    connection.execute("UPDATE adapted_models SET size_bytes = 1 WHERE id = 'a2'")
    connection.execute("UPDATE tombstones SET deleted = 0 WHERE id = 'gone'")
    connection.close()

    with open_store() as store:
        with pytest.raises(AdaptedModelDamaged):
            store.read("a2")
        with pytest.raises(AdaptedModelNotFound) as caught:
            store.read("gone")
        assert caught.type is AdaptedModelNotFound
        assert store.get("a1").revision == 0


TEXTS = [
    *(("adapted_models", name) for name in ("id", "model", "record", "sha256", "digest")),
    *(("tombstones", name) for name in ("id", "digest")),
    *(("clock", name) for name in ("boot", "digest")),
]


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize(
    ("schema", "table", "column"),
    [(2, *text) for text in TEXTS]
    + [(1, *text) for text in TEXTS if "digest" not in text and text[0] != "clock"],
)
def test_a_text_that_is_no_utf8_is_damage(
    folder: Path,
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
    schema: int,
    table: str,
    column: str,
    repair: bool,
) -> None:
    """One flipped bit kept the store from opening, and from being repaired."""
    fill(folder, schema, make_model, make_arrays)
    connection = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
    where = {"adapted_models": "id = 'a2'", "tombstones": "id = 'gone'", "clock": "1"}[table]
    connection.execute(
        f"UPDATE {table} SET {column} = CAST(x'61e9' || CAST({column} AS BLOB) AS TEXT)"  # noqa: S608 -- our own names
        f" WHERE {where}"
    )
    if repair:
        connection.execute("PRAGMA user_version = 3")  # so that the index is made again
    connection.close()

    if repair:
        StoreFolder.open(folder, lambda: 1000.0, repair=True).close()
    with open_store() as store:
        assert_same(store.read("a1"), make_arrays(0))
        if table == "adapted_models":
            with pytest.raises(AdaptedModelDamaged):
                store.read("a2")
        else:
            assert_same(store.read("a2"), make_arrays(1))
        with pytest.raises(AdaptedModelNotFound):
            store.read("gone")


def test_a_damaged_index_of_schema_2_is_rebuilt(
    folder: Path,
    open_store: OpenStore,
    make_model: MakeModel,
    make_arrays: MakeArrays,
    assert_same: AssertSame,
) -> None:
    """One bit of its version is flipped: it claims to be of this release, or a newer one."""
    fill(folder, 2, make_model, make_arrays)
    for version in (3, 6):
        connection = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        with pytest.raises(StartError, match="kshot store repair"):
            open_store()
        if version == 6:
            StoreFolder.open(folder, lambda: 1000.0, repair=True).close()

    with open_store() as store:
        check(store, make_arrays, assert_same)


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
    connection.execute("PRAGMA user_version = 4")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = index.read_bytes()

    with pytest.raises(StartError, match="got 4: a newer release of kshot wrote this store; start"):
        open_store()
    assert index.read_bytes() == before
