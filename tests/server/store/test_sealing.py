"""Sealed stores: arrays that only the operator's keys open."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kshot.server.errors import StartError
from kshot.server.store.adapted_model import AdaptedArrays, AdaptedModelRecord
from kshot.server.store.content import described, model_content, opened, parse_arrays
from kshot.server.store.failures import StoreFailed
from kshot.server.store.sealing import Seals
from kshot.server.store.store import LocalStore
from kshot.server.upkeep.inspection import check_store

MakeArrays = Callable[..., AdaptedArrays]
MakeModel = Callable[..., AdaptedModelRecord]
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(3)]


@pytest.fixture
def seals(tmp_path: Path) -> Callable[..., Seals]:
    """Return the keys of these numbers, the newest first."""

    def read(*numbers: int) -> Seals:
        path = tmp_path / "store-key"
        path.touch(mode=0o600)
        path.write_text("\n".join(KEYS[number] for number in numbers) + "\n")
        return Seals.read(path)

    return read


@pytest.fixture
def open_sealed(tmp_path: Path) -> Callable[..., LocalStore]:
    """Open one folder with keys, or none."""

    def opened_store(keys: Seals | None) -> LocalStore:
        return LocalStore.open(
            tmp_path / "store", max_count=10, max_bytes=2**30, clock=lambda: 1000.0, seals=keys
        )

    return opened_store


def whole(model: AdaptedModelRecord, arrays: AdaptedArrays, keys: Seals) -> bytes:
    return b"".join(model_content(model, arrays, keys).parts)


def test_a_sealed_file_shows_no_arrays(
    make_model: MakeModel, make_arrays: MakeArrays, seals: Callable[..., Seals]
) -> None:
    model, arrays = make_model("a"), make_arrays()
    content = whole(model, arrays, seals(0))
    again = whole(model, arrays, seals(0))

    assert arrays.support.tobytes()[:64] not in content
    assert b"parameters." not in content
    assert content != again, "each file has a nonce of its own"
    assert described(content).id == model.id
    got = parse_arrays(opened(content, model, seals(1, 0)))
    np.testing.assert_array_equal(got.support, arrays.support)


@pytest.mark.parametrize("field", ["tenant", "id", "adaptation_digest"])
def test_a_sealed_file_opens_in_its_own_place_alone(
    make_model: MakeModel, make_arrays: MakeArrays, seals: Callable[..., Seals], field: str
) -> None:
    model = make_model("a")
    content = whole(model, make_arrays(), seals(0))

    with pytest.raises(StoreFailed, match="does not open with the key"):
        opened(content, replace(model, **{field: "other"}), seals(0))


def test_keys_rotate(
    make_model: MakeModel,
    make_arrays: MakeArrays,
    seals: Callable[..., Seals],
    open_sealed: Callable[..., LocalStore],
    tmp_path: Path,
) -> None:
    """A store without the key answers for what it can read, and loses nothing."""
    arrays = make_arrays()
    with open_sealed(None) as store:
        plain = store.put(make_model("a"), arrays).id
    with open_sealed(seals(0)) as store:
        old = store.put(make_model("b"), arrays).id
    with open_sealed(seals(1, 0)) as store:
        new = store.put(make_model("c"), arrays).id
        for name in (plain, old, new):
            np.testing.assert_array_equal(store.read(name).support, arrays.support)
    for keys, unread in ((seals(1), {old}), (seals(2), {old, new}), (None, {old, new})):
        with open_sealed(keys) as store:
            for name in (plain, old, new):
                if name in unread:
                    with pytest.raises(StoreFailed, match=r"sealed with the key .*--store-key"):
                        store.read(name)
                else:
                    store.read(name)

    assert check_store(tmp_path / "store").sound


def test_a_start_warns_of_a_missing_key(
    make_model: MakeModel,
    make_arrays: MakeArrays,
    seals: Callable[..., Seals],
    open_sealed: Callable[..., LocalStore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for keys, name in ((None, "a"), (seals(0), "b"), (seals(1, 0), "c")):
        with open_sealed(keys) as store:
            store.put(make_model(name), make_arrays())
    assert caplog.messages == []

    counts = []
    for keys in (None, seals(1), seals(0, 1)):
        caplog.clear()
        open_sealed(keys).close()
        counts.append([record.fields["count"] for record in caplog.records])  # type: ignore[attr-defined]
        assert set(caplog.messages) <= {"store_key_missing"}

    assert counts == [[2], [1], []]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "expected a key a line, got none"),
        ("abc\n", "line 1: expected 32 bytes in base64"),
        (f"{KEYS[0]}\n{KEYS[1][:-4]}\n", "line 2: expected 32 bytes in base64"),
        ("ключ", "it is not text"),
        (None, "No such file"),
    ],
)
def test_bad_key_files_are_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "store-key"
    if content is not None:
        path.touch(mode=0o600)
        path.write_text(content)

    with pytest.raises(StartError, match=problem):
        Seals.read(path)


def test_a_key_file_for_all_to_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store-key"
    path.write_text(KEYS[0])
    path.chmod(0o644)

    with pytest.raises(StartError, match="chmod 600"):
        Seals.read(path)
