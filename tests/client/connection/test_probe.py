"""On `localhost` gRPC tells of one of two addresses: what listens there is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme

from kshot.client.connection.credentials import Credentials
from kshot.client.connection.failures import Place, plain_words
from kshot.client.connection.probe import speaks_tls

REFUSED = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv6:[::1]:1: Connection refused"
)


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """A port with TLS and one without, on one address."""
    issued = trustme.CA().issue_cert("localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    server = grpc.server(ThreadPoolExecutor(1))
    secure = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    plain = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield secure, plain
    server.stop(None).wait()


def words(port: int, *, tls: bool) -> str:
    place = Place(f"localhost:{port}", Credentials(tls=tls))
    return plain_words(grpc.StatusCode.UNAVAILABLE, REFUSED, place, None)


def test_the_remedy_is_on_the_side_that_is_wrong(ports: tuple[int, int]) -> None:
    secure, plain = ports

    assert "it speaks TLS; pass tls=True" in words(secure, tls=False)
    assert "it does not speak TLS; leave TLS out" in words(plain, tls=True)
    assert "nothing listens there" in words(plain, tls=False)
    assert "nothing listens there" in words(1, tls=False)


def test_a_port_without_a_listener_is_unknown() -> None:
    assert speaks_tls("localhost", 1) is None
