from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from kshot.server.config import ServerConfig
from kshot.server.rpc import transport
from kshot.server.rpc.transport import quiet_grpc, transport_options


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """Options of a server that bears two connections, and those not for long."""
    monkeypatch.setattr(transport, "connection_limit", lambda _descriptors: 2)
    monkeypatch.setattr(transport, "_HANDSHAKE_SECONDS", 1)
    config = ServerConfig(bundles=(tmp_path,), store=tmp_path, max_connection_idle=1.5)
    return transport_options(config)


def test_connections_that_do_nothing_end(limits: list[tuple[str, int]]) -> None:
    """More than the limit end at once, silent ones soon, and idle ones; then others come in."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"

    def until_end(connection: socket.socket) -> bytes:
        content = b""
        while part := connection.recv(4096):
            content += part
        return content

    def attack(port: int) -> list[bytes]:
        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=30)

        with connect() as silent, connect() as idle:
            idle.sendall(preface)
            silent.recv(1)  # both are counted now
            idle.recv(1)
            with connect() as third:
                return [until_end(each) for each in (third, idle, silent)]

    async def main() -> None:
        server = grpc.aio.server(options=limits)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        third, idle, silent = await asyncio.to_thread(attack, port)
        await server.stop(0)
        assert third == b""
        assert b"connection idle" in idle
        assert b"handshake timeout" in silent

    asyncio.run(main())


@pytest.mark.parametrize(
    ("message", "level", "event"),
    [
        ("ExecuteBatchError raised in core by servicer method [/x/y]", "INFO", "client_left"),
        ("Unexpected [ValueError] raised by servicer method [/x/y]", "ERROR", None),
    ],
)
def test_clients_that_left_are_no_errors(
    caplog: pytest.LogCaptureFixture, message: str, level: str, event: str | None
) -> None:
    quiet_grpc()
    log: Callable[..., None] = logging.getLogger("grpc._cython.cygrpc").exception

    with caplog.at_level(logging.INFO):
        log(message)

    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (level, event or message)
