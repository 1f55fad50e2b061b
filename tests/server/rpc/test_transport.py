from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from kshot.server.config import ServerConfig
from kshot.server.rpc import transport
from kshot.server.rpc.transport import quiet_grpc, transport_options
from tests.server.front.raw_http2 import RawClient


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


def test_many_calls_at_once_cut_off_nobody(tmp_path: Path) -> None:
    """gRPC would end calls of others while more wait for Python than its own limits say."""
    blocked, came = threading.Event(), threading.Event()

    async def answer(request: bytes, _context: object) -> bytes:
        if request == b"block":
            blocked.set()
            came.wait(30)
        return request

    def attack(address: str) -> list[bytes]:
        with ExitStack() as stack:
            channel = stack.enter_context(grpc.insecure_channel(address))
            call = channel.unary_unary("/x/Y")
            blocking = call.future(b"block", timeout=60)
            blocked.wait(30)
            for _ in range(40):
                raw = stack.enter_context(RawClient(address))
                for _ in range(80):
                    raw.open("/x/Y", end=False)
                raw.ping()  # the calls before it have come
            honest = [call.future(b"honest", timeout=60) for _ in range(40)]
            stack.enter_context(RawClient(address)).ping()
            came.set()
            return [each.result() for each in (blocking, *honest)]

    async def main() -> None:
        config = ServerConfig(bundles=(tmp_path,), store=tmp_path)
        server = grpc.aio.server(options=transport_options(config))
        handlers = {"Y": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_registered_method_handlers("x", handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        answers = await asyncio.to_thread(attack, f"127.0.0.1:{port}")
        await server.stop(0)
        assert answers == [b"block"] + 40 * [b"honest"]

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
