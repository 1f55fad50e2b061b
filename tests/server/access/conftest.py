from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from kshot.server.access.certificate import TlsFiles

WriteTls = Callable[..., TlsFiles]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """An authority that tests trust."""
    return trustme.CA()


@pytest.fixture
def write_tls(authority: trustme.CA, tmp_path: Path) -> WriteTls:
    """Write a certificate for this machine and its key, in the place of earlier ones."""

    def write(end: datetime = datetime(2100, 1, 1, tzinfo=UTC)) -> TlsFiles:
        issued = authority.issue_cert("localhost", "127.0.0.1", not_after=end)
        files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
        files.key.touch(0o600)
        files.key.write_bytes(issued.private_key_pem.bytes())
        files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return files

    return write
