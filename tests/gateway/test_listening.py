from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from kshot.gateway.listening import take_pair


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let both ends agree; raise `ssl.SSLError` where they do not."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname="127.0.0.1"),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() is not None


def test_a_pair_that_does_not_match_leaves_the_one_in_use(tmp_path: Path) -> None:
    """A certificate may be replaced a moment before its key."""
    authority = trustme.CA()
    one, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    one.cert_chain_pems[0].write_to_path(certificate)
    one.private_key_pem.write_to_path(key)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.configure_trust(client)
    take_pair(server, certificate, key)
    other.cert_chain_pems[0].write_to_path(certificate)

    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        take_pair(server, certificate, key)

    handshake(server, client)
    other.private_key_pem.write_to_path(key)
    take_pair(server, certificate, key)
    handshake(server, client)
