from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from kshot.server.errors import StartError
from kshot.server.watch.metrics_port import MetricsPort


@pytest.fixture
def port() -> Iterator[MetricsPort]:
    """A port that answers with the header it was sent, or fails."""

    def scrape(accept: str) -> tuple[str, bytes]:
        if accept == "fail":
            raise RuntimeError("a secret")
        return "text/plain", accept.encode()

    opened = MetricsPort("127.0.0.1", 0, scrape)
    yield opened
    opened.close()


def get(port: MetricsPort, path: str = "/metrics", accept: str = "any") -> tuple[int, bytes]:
    host, _, number = port.address.rpartition(":")
    connection = HTTPConnection(host, int(number), timeout=30)
    connection.request("GET", path, headers={"Accept": accept})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content


def test_a_scrape_is_answered(port: MetricsPort) -> None:
    assert get(port) == (200, b"any")
    assert get(port, "/metrics?name[]=x") == (200, b"any")
    assert get(port, "/")[0] == 404


def test_a_failure_tells_nothing(port: MetricsPort) -> None:
    status, content = get(port, accept="fail")

    assert status == 500
    assert b"secret" not in content
    assert get(port) == (200, b"any")


def test_slow_clients_keep_nobody_out(port: MetricsPort) -> None:
    """The oldest of them are closed."""
    host, _, number = port.address.rpartition(":")
    slow = [socket.create_connection((host, int(number)), timeout=30) for _ in range(20)]

    assert get(port) == (200, b"any")
    assert slow[0].recv(1) == b""
    for each in slow:
        each.close()


def test_an_address_that_is_taken_is_named(port: MetricsPort) -> None:
    host, _, number = port.address.rpartition(":")

    with pytest.raises(StartError, match=rf"metrics: {port.address}: .+; name another address"):
        MetricsPort(host, int(number), lambda _accept: ("", b""))
