from __future__ import annotations

import json
import logging
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from kshot.server.access import audit as module
from kshot.server.access.audit import AuditLog
from kshot.server.call_context import Call
from kshot.server.errors import StartError


def write_calls(audit: AuditLog, *calls: tuple[Call, str]) -> None:
    for call, outcome in calls:
        audit.write_call(call, outcome)
    audit.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def deletion() -> Call:
    call = Call("DeleteAdaptedModel", "tenant:acme", "ipv4:127.0.0.1:5", "acme", key="abcdefgh")
    call.adapted_model = "am-" + "a" * 26
    return call


def test_a_line_says_who_did_what(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    call = deletion()

    write_calls(AuditLog(path), (call, "OK"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (line,) = lines(path)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "action": "delete_adapted_model",
        "key": "abcdefgh",
        "tenant": "acme",
        "peer": "ipv4:127.0.0.1:5",
        "object": call.adapted_model,
        "request_id": call.request_id,
        "outcome": "OK",
    }


def test_a_line_has_whole_names(tmp_path: Path) -> None:
    """What is no id is cut: a caller may send megabytes."""
    path = tmp_path / "audit"
    reload, strange = Call("ReloadBundles", connection="ipv6:%5B::1%5D:5"), deletion()
    reload.changes = {"labels_before": "tiny@stable = tiny@1", "loaded": ""}
    strange.adapted_model = "am-" + "x" * 1000

    write_calls(AuditLog(path), (reload, "OK"), (strange, "INVALID_REQUEST"))

    reloaded, deleted = lines(path)
    assert reloaded["peer"] == "ipv6:[::1]:5"
    assert reloaded["labels_before"] == "tiny@stable = tiny@1"
    assert "loaded" not in reloaded
    assert deleted["object"] == "am-xxxxxxxx…"


def test_other_calls_are_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "audit"

    write_calls(AuditLog(path), (Call("Predict"), "OK"), (Call("Predict"), "MODEL_NOT_FOUND"))

    assert lines(path) == []


def test_a_file_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    path, moved = tmp_path / "audit", tmp_path / "audit.1"
    audit = AuditLog(path)
    audit.write("create_key", "OK")
    path.rename(moved)

    write_calls(audit, (deletion(), "OK"))

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
        audit.write_call(Call("Predict", "ipv4:1", "ipv4:1"), "UNAUTHENTICATED")
    write_calls(audit, (deletion(), "OK"))

    found = lines(path)
    assert [line["action"] for line in found] == ["refuse"] * 22 + ["delete_adapted_model"]
    assert [line.get("suppressed", 0) for line in found[19:22]] == [0, 30, 0]
    assert found[0]["method"] == "Predict"


def test_a_tenant_is_listed_whatever_others_do(tmp_path: Path) -> None:
    """Calls without a key share one number of lines, each tenant has its own."""
    path = tmp_path / "audit"
    nobody, refused = (Call("Predict"), "UNAUTHENTICATED"), "PERMISSION_DENIED"
    acme, other = (Call("ReloadBundles", tenant=name, key=name) for name in ("acme", "other"))

    write_calls(AuditLog(path, lambda: 0.0), *[nobody, (acme, refused)] * 30, (other, refused))

    tenants = [line.get("tenant") for line in lines(path)]
    assert {name: tenants.count(name) for name in set(tenants)} == {
        None: 20,
        "acme": 20,
        "other": 1,
    }


def test_buckets_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BUCKETS", 3)
    audit = AuditLog(tmp_path / "audit", lambda: 0.0)

    calls = (Call("Predict", tenant=f"t{number}", key="k") for number in range(5))
    write_calls(audit, *((call, "PERMISSION_DENIED") for call in calls))

    assert list(audit._buckets) == ["t2", "t3", "t4"]


def test_calls_do_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lines keep their order nevertheless."""
    path, gate = tmp_path / "audit", threading.Event()
    audit, append = AuditLog(path), module._append

    def wait(*arguments: Any) -> None:  # noqa: ANN401 -- those of `_append`
        gate.wait()
        append(*arguments)

    monkeypatch.setattr(module, "_append", wait)
    calls = [deletion() for _ in range(5)]
    for call in calls:
        audit.write_call(call, "OK")
    assert lines(path) == []
    gate.set()
    audit.close()

    assert [line["request_id"] for line in lines(path)] == [call.request_id for call in calls]


def test_what_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "audit"
    audit = AuditLog(path)
    path.unlink()
    path.mkdir()

    write_calls(audit, (deletion(), "OK"))

    assert [(each.message, each.levelno) for each in caplog.records] == [
        ("audit_not_written", logging.ERROR)
    ]
    with pytest.raises(StartError, match="cannot write the audit log"):
        AuditLog(path)


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    """A line stays a line, whatever a peer is called."""
    path = tmp_path / "audit"
    call = Call("DeleteAdaptedModel", "x", "unix:\x1b[2J\n{}\u202e")

    write_calls(AuditLog(path), (call, "OK"))

    text = path.read_text().removesuffix("\n")
    assert text.isprintable()
    assert text.isascii()


def test_without_a_path_nothing_happens() -> None:
    AuditLog(None).write_call(deletion(), "OK")
