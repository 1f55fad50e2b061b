"""`kshot statistics` and `kshot reload`, against a real server on loopback."""

from __future__ import annotations

import json

import pytest

from kshot.__main__ import main


@pytest.fixture(autouse=True)
def server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_SERVER", address)


def test_statistics_are_counts_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics", "--json"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert printed["start_time"] == "2026-12-01T10:00:00Z"
    assert (printed["adapted_model_count"], printed["engine_count"]) == (3, 1)
    (method,) = printed["methods"]
    assert (method["method"], method["call_count"], method["time_ms"]["total"]) == (
        "Adapt",
        2,
        1500.0,
    )
    assert printed["tenants"][0]["tenant"] == "acme"


def test_people_read_tables_of_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics"]) == 0

    said = capsys.readouterr().out
    assert all(word in said for word in ("start_time", "Adapt", "1500.0", "acme"))


def test_reload_lists_what_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reload", "--json"]) == 0
    (bundle,) = json.loads(capsys.readouterr().out)["bundles"]
    assert main(["reload"]) == 0

    said = capsys.readouterr().out
    assert bundle["labels"] == ["stable"]
    assert (bundle["version"], bundle["loaded"]) == (2, True)
    assert "abababababab" in said
