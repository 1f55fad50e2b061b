from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest

from kshot.server.access.access_file import AccessFile, change_access, read_access
from kshot.server.access.key import Role, new_key
from kshot.server.access.limits import Limits
from kshot.server.errors import StartError

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def with_key(file: AccessFile, tenant: str = "acme") -> AccessFile:
    return replace(file, keys=(*file.keys, new_key(tenant, Role.USER, None, NOW)[0]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an access file with one key."""
    path = tmp_path / "access.json"
    change_access(path, with_key, create=True)
    return path


def test_what_was_written_is_read_again(path: Path) -> None:
    limits = {"acme": Limits(max_models=3)}

    changed = change_access(path, lambda file: replace(with_key(file), tenants=limits))

    assert read_access(path)[0] == changed
    assert len(changed.keys) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_that_fails_leaves_the_file_alone(path: Path) -> None:
    before = path.read_bytes()

    with pytest.raises(StartError, match="tenants"):
        change_access(path, lambda file: replace(file, tenants={"../x": Limits()}))

    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_changes_at_once_all_count(path: Path) -> None:
    threads = [Thread(target=change_access, args=(path, with_key)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(read_access(path)[0].keys) == 9


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)

    change_access(link, with_key)

    assert link.is_symlink()
    assert len(read_access(link)[0].keys) == 2


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_open_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)

    with pytest.raises(StartError, match=f"mode {mode:o}.*chmod it to 600"):
        read_access(path)


@pytest.mark.parametrize(
    ("mode", "user", "group", "accepted"),
    [
        (0o440, 0, 10001, True),
        (0o040, 0, 10001, True),
        (0o400, 0, 10001, True),
        (0o640, 0, 10001, False),
        (0o460, 0, 10001, False),
        (0o444, 0, 10001, False),
        (0o440, 0, 5, False),
        (0o440, 12, 10001, False),
    ],
)
def test_a_secret_that_root_mounts_for_the_group_is_accepted(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    user: int,
    group: int,
    accepted: bool,
) -> None:
    """Nobody but root may change it, and only the server's group may read it."""
    mounted = path.stat()
    fields = list(mounted)
    fields[0], fields[4], fields[5] = stat.S_IFREG | mode, user, group
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(fields))
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    monkeypatch.setattr(os, "getegid", lambda: 10001)
    monkeypatch.setattr(os, "getgroups", list)

    if accepted:
        assert len(read_access(path)[0].keys) == 1
    else:
        with pytest.raises(StartError, match="nobody else may read or write"):
            read_access(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(StartError, match="expected a file"):
        read_access(tmp_path / "pipe")
    with pytest.raises(StartError, match="kshot keys create"):
        read_access(tmp_path / "missing")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"keys": [{}]}, r"keys\[0\]\.prefix"),
        ({"more": 1}, "more: unknown key"),
        ({"tenants": {"A\x1b[2J": {}}}, r"got 'A\\x1b\[2J'"),
        ({"tenants": {"acme": 3}}, "tenants.acme: expected an object"),
    ],
)
def test_a_damaged_file_is_refused(path: Path, change: dict[str, object], problem: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(StartError, match=problem):
        read_access(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenant", "a\nb"),
        ("tenant", "-a"),
        ("tenant", "a" * 41),
        ("name", "\x1b[31m"),
        ("name", "\u202eabc"),
        ("sha256", "x" * 64),
        ("prefix", "short"),
        ("create_time", "yesterday"),
        ("role", "root"),
    ],
)
def test_fields_of_keys_are_checked(path: Path, field: str, value: str) -> None:
    document = json.loads(path.read_text())
    document["keys"][0][field] = value
    path.write_text(json.dumps(document))

    with pytest.raises(StartError, match=rf"keys\[0\]\.{field}: expected") as refused:
        read_access(path)

    assert str(refused.value).isprintable()


def test_two_keys_have_two_prefixes(path: Path) -> None:
    with pytest.raises(StartError, match="different prefixes"):
        change_access(path, lambda file: replace(file, keys=file.keys * 2))
