"""Certificates that are renewed are shown; files that do not fit each other change nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from kshot.gateway.renewal import Renewal, TlsFiles


def write(files: TlsFiles, made: trustme.LeafCert, *, key: bool = True) -> None:
    files.cert.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    if key:
        files.key.write_bytes(made.private_key_pem.bytes())


def answered(
    serving: ssl.SSLContext, trusted: trustme.CA, shown: trustme.LeafCert | None = None
) -> bool:
    """Tell whether a client that trusts an authority, and shows a certificate, gets an answer."""
    asking = ssl.create_default_context()
    trusted.configure_trust(asking)
    if shown is not None:
        shown.configure_cert(asking)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"answer")
        writer.close()

    async def main() -> bool:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving)
        async with server:
            try:
                place = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*place, ssl=asking)
                content = await reader.read()
            except (ssl.SSLError, ConnectionError):
                return False
            writer.close()
            return content == b"answer"

    return asyncio.run(main())


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_a_pair_is_shown_once_it_is_whole(
    files: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = trustme.CA(), trustme.CA()
    write(files, old.issue_cert("127.0.0.1"))
    context = files.context()
    renewal = Renewal(context, files)
    made = new.issue_cert("127.0.0.1")

    write(files, made, key=False)
    renewal.look()

    assert answered(context, old)
    assert "certificate_not_read" in caplog.messages
    write(files, made)
    renewal.look()
    assert answered(context, new)
    assert not answered(context, old)


def test_authorities_of_clients_are_renewed(files: TlsFiles, tmp_path: Path) -> None:
    own, old, new = trustme.CA(), trustme.CA(), trustme.CA()
    files = TlsFiles(files.cert, files.key, tmp_path / "ca.pem")
    write(files, own.issue_cert("127.0.0.1"))
    old.cert_pem.write_to_path(str(files.client_ca))
    context = files.context()
    renewal = Renewal(context, files)
    before, after = (each.issue_cert("somebody") for each in (old, new))
    assert answered(context, own, before)
    assert not answered(context, own, after)

    new.cert_pem.write_to_path(str(files.client_ca))
    renewal.look()

    assert answered(context, own, after)
    assert not answered(context, own, before)
    assert not answered(context, own)


def test_files_that_are_gone_for_a_moment_change_nothing(files: TlsFiles) -> None:
    authority = trustme.CA()
    write(files, authority.issue_cert("127.0.0.1"))
    context = files.context()
    renewal = Renewal(context, files)

    files.cert.unlink()
    renewal.look()

    assert answered(context, authority)
