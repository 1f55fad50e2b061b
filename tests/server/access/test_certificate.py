from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from kshot.server.access.certificate import TlsFiles, read_certificate
from kshot.server.errors import StartError

WriteTls = Callable[..., TlsFiles]
NOW = datetime.now(UTC)


def test_a_chain_and_its_key_are_read(write_tls: WriteTls, authority: trustme.CA) -> None:
    files = write_tls()
    ca = files.cert.with_name("ca.pem")
    authority.cert_pem.write_to_path(ca)

    read = read_certificate(replace(files, client_ca=ca), NOW)

    assert read.chain == files.cert.read_bytes()
    assert read.key == files.key.read_bytes()
    assert read.client_ca == ca.read_bytes()


@pytest.mark.parametrize("year", [2049, 2050])
def test_the_end_of_a_certificate_is_read(write_tls: WriteTls, year: int) -> None:
    """Years from 2050 on are written in another form."""
    end = datetime(year, 12, 31, tzinfo=UTC)

    assert read_certificate(write_tls(end), NOW).end == end


def test_a_chain_ends_with_its_first_certificate(authority: trustme.CA, tmp_path: Path) -> None:
    between = authority.create_child_ca()
    issued = between.issue_cert("localhost", not_after=NOW + timedelta(days=1))
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    files.key.touch(0o600)
    issued.private_key_pem.write_to_path(files.key)
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    assert files.cert.read_text().count("BEGIN CERTIFICATE") == 2
    assert read_certificate(files, NOW).end == (NOW + timedelta(days=1)).replace(microsecond=0)


@pytest.mark.parametrize("days", [-1.0, 0.0])
def test_a_certificate_that_has_ended_is_refused(write_tls: WriteTls, days: float) -> None:
    files = write_tls(NOW + timedelta(days=days))

    with pytest.raises(StartError, match=r"cert\.pem: expected a certificate that is valid now"):
        read_certificate(files, NOW)


def test_a_certificate_of_the_future_is_refused(write_tls: WriteTls) -> None:
    with pytest.raises(StartError, match="valid now"):
        read_certificate(write_tls(), datetime(1999, 1, 1, tzinfo=UTC))


def test_a_key_of_another_certificate_is_refused(write_tls: WriteTls) -> None:
    files = write_tls()
    other = files.key.with_name("other.pem")
    other.touch(0o600)
    other.write_bytes(files.key.read_bytes())
    write_tls()

    with pytest.raises(StartError, match=r"other\.pem: it does not fit .*cert\.pem"):
        read_certificate(replace(files, key=other), NOW)


def test_a_key_with_a_password_is_refused(write_tls: WriteTls) -> None:
    """Nothing asks for a password on a terminal."""
    files = write_tls()
    key = load_pem_private_key(files.key.read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))

    with pytest.raises(StartError, match=r"key\.pem: .* one with a password"):
        read_certificate(files, NOW)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_key_that_anybody_may_read_is_refused(write_tls: WriteTls, mode: int) -> None:
    files = write_tls()
    files.key.chmod(mode)

    with pytest.raises(StartError, match=f"mode {mode:o}; chmod it to 600"):
        read_certificate(files, NOW)


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"AA"])
@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_garbage_is_refused(write_tls: WriteTls, name: str, content: bytes) -> None:
    files = replace(write_tls(), client_ca=write_tls().cert)
    path = files.cert.with_name("garbage")
    path.touch(0o600)
    path.write_bytes(content)

    with pytest.raises(StartError, match=r"garbage: (not|cannot)"):
        read_certificate(replace(files, **{name: path}), NOW)


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_missing_file_is_named(write_tls: WriteTls, name: str) -> None:
    with pytest.raises(StartError, match=r"missing: cannot read the .*: No such file"):
        read_certificate(replace(write_tls(), **{name: Path("missing")}), NOW)


def test_every_prefix_of_a_certificate_is_refused_in_words(write_tls: WriteTls) -> None:
    """The reader of DER meets cut content with an error of its own."""
    files = write_tls()
    lines = files.cert.read_text().splitlines()
    for count in range(1, len(lines) - 1):
        files.cert.write_text("\n".join([*lines[:count], lines[-1], ""]))
        with pytest.raises(StartError, match=r"cert\.pem|key\.pem"):
            read_certificate(files, NOW)
