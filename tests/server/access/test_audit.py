from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from kshot.server.access.audit import AuditLog
from kshot.server.call_context import Call
from kshot.server.errors import StartError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def deletion() -> Call:
    call = Call("DeleteAdaptedModel", "tenant:acme", "ipv4:127.0.0.1:5", "acme", key="abcdefgh")
    call.adapted_model = "am-" + "a" * 26
    return call


def test_a_line_says_who_did_what(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    call = deletion()

    AuditLog(path).write_call(call, "OK")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (line,) = lines(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "action": "delete_adapted_model",
        "key": "abcdefgh",
        "tenant": "acme",
        "peer": "ipv4:127.0.0.1:5",
        "object": "am-aaaaaaaa…",
        "request_id": call.request_id,
        "outcome": "OK",
    }


def test_other_calls_are_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    AuditLog(path).write_call(Call("Predict"), "OK")
    AuditLog(path).write_call(Call("Predict"), "MODEL_NOT_FOUND")

    assert lines(path) == []


def test_a_file_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "audit", tmp_path / "audit.1"
    audit = AuditLog(path)
    audit.write_call(deletion(), "OK")
    path.rename(moved)

    audit.write_call(deletion(), "OK")

    assert (len(lines(path)), len(lines(moved))) == (1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_refusals_are_few_and_counted(tmp_path: Path) -> None:
    """Whoever has no key cannot fill the disk."""
    path, now = tmp_path / "audit", 0.0
    audit = AuditLog(path, lambda: now)

    for _ in range(50):
        audit.write_call(Call("Predict", "ipv4:1", "ipv4:1"), "UNAUTHENTICATED")
    now = 2.5
    for _ in range(3):
        audit.write_call(Call("Predict", "ipv4:1", "ipv4:1"), "PERMISSION_DENIED")
    audit.write_call(deletion(), "OK")

    found = lines(path)
    assert [line["action"] for line in found] == ["refuse"] * 22 + ["delete_adapted_model"]
    assert [line.get("suppressed", 0) for line in found[19:22]] == [0, 30, 0]
    assert found[0]["method"] == "Predict"


def test_what_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    path.unlink()
    path.mkdir()

    audit.write_call(deletion(), "OK")

    assert [(each.message, each.levelno) for each in caplog.records] == [
        ("audit_not_written", logging.ERROR)
    ]
    with pytest.raises(StartError, match="cannot write the audit log"):
        AuditLog(path)


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    """A line stays a line, whatever a peer is called."""
    path = tmp_path / "audit"
    call = Call("DeleteAdaptedModel", "x", "unix:\x1b[2J\n{}\u202e")

    AuditLog(path).write_call(call, "OK")

    text = path.read_text().removesuffix("\n")
    assert text.isprintable()
    assert text.isascii()


def test_without_a_path_nothing_happens() -> None:
    AuditLog(None).write_call(deletion(), "OK")
