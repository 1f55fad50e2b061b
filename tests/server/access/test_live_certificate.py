from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from kshot.server.access.certificate import TlsFiles
from kshot.server.access.live_certificate import LiveCertificate

WriteTls = Callable[..., TlsFiles]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    """Catch all events."""
    caplog.set_level(logging.INFO)


def test_a_new_pair_is_read_once_its_files_rest(
    write_tls: WriteTls, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = LiveCertificate(write_tls())
    assert events(caplog) == ["certificate_read"]
    write_tls()

    certificate.refresh()
    assert events(caplog) == []
    certificate.refresh()
    assert events(caplog) == ["certificate_read"]
    certificate.refresh()

    assert events(caplog) == []


@pytest.mark.parametrize("damage", ["key", "cert", "ended", "missing"])
def test_a_broken_pair_keeps_the_old_one(
    write_tls: WriteTls, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = write_tls()
    certificate = LiveCertificate(files)
    events(caplog)
    if damage == "ended":
        write_tls(datetime.now(UTC) - timedelta(days=1))
    elif damage == "missing":
        files.key.unlink()
    else:
        (files.key if damage == "key" else files.cert).write_bytes(b"garbage")

    for _ in range(3):
        certificate.refresh()
    assert events(caplog) == ["certificate_not_read"]
    write_tls()
    for _ in range(3):
        certificate.refresh()

    assert events(caplog) == ["certificate_read"]


def test_the_end_is_told_once_a_day(write_tls: WriteTls, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    end = now + timedelta(days=20)
    certificate = LiveCertificate(write_tls(end), lambda: now)
    levels: list[str] = []

    for day in range(22):
        events(caplog)
        now = end - timedelta(days=20 - day)
        certificate.refresh()
        certificate.refresh()
        levels.append("".join(record.levelname[0] for record in caplog.records))

    assert levels == [""] * 7 + ["W"] * 13 + ["E"] * 2
