from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kshot.server.access.access_file import change_access
from kshot.server.access.key import Key, Role, new_key
from kshot.server.access.limits import Limits
from kshot.server.access.live_access import LiveAccess

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def key() -> tuple[Key, str]:
    """A key and its text."""
    return new_key("acme", Role.USER, None, NOW)


@pytest.fixture
def path(tmp_path: Path, key: tuple[Key, str]) -> Path:
    """The path of an access file with the key."""
    path = tmp_path / "access.json"
    change_access(path, lambda file: replace(file, keys=(key[0],)), create=True)
    return path


def test_a_change_counts_from_the_next_look_on(path: Path, key: tuple[Key, str]) -> None:
    access = LiveAccess(path)
    record, text = new_key("other", Role.ADMIN, None, NOW)
    limits = {"other": Limits(max_models=1)}
    change_access(path, lambda _: replace(_, keys=(record,), tenants=limits))

    assert access.find_key(text) is None
    access.refresh()

    assert access.find_key(text) == record
    assert access.find_key(key[1]) is None
    assert access.limits_of("other") == limits["other"]
    assert access.limits_of("acme") == Limits()


@pytest.mark.parametrize("damage", ["garbage", "missing", "open to others"])
def test_a_damaged_file_keeps_the_old_keys(
    path: Path, key: tuple[Key, str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells once."""
    access = LiveAccess(path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"{" if damage == "garbage" else whole + b"\n")
        path.chmod(0o600 if damage == "garbage" else 0o644)

    with caplog.at_level(logging.INFO):
        access.refresh()
        access.refresh()

    assert access.find_key(key[1]) == key[0]
    assert [(each.message, each.levelname) for each in caplog.records] == [
        ("access_not_read", "ERROR")
    ]
    path.touch(0o600)
    path.chmod(0o600)
    path.write_bytes(whole)
    with caplog.at_level(logging.INFO):
        access.refresh()
    assert caplog.records[-1].message == "access_read"
