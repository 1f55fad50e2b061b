"""Connections that neither ask nor read end; those that do are answered."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast
from unittest.mock import Mock

import pytest
import trustme
import uvicorn
from starlette.types import Receive, Scope, Send

from kshot.gateway import patience as module
from kshot.gateway.patience import PatientLoop, PatientProtocol
from kshot.gateway.refusals import Refusals

HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
LARGE = bytes(2**25)


async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer without reading what is sent."""
    body = LARGE if scope["path"] == "/large" else b"done"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def with_server(
    client: Callable[[uvicorn.Server, socket.socket], Awaitable[None]],
    refusals: Refusals | None = None,
) -> None:
    """Run a client beside a server, on one loop."""

    async def main() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        make = cast(Any, partial(PatientProtocol, refusals=refusals or Refusals()))
        config = uvicorn.Config(
            answer, http=make, lifespan="off", log_config=None, log_level="error"
        )
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve([listening]))  # without signals
        while not server.started:
            await asyncio.sleep(0)
        try:
            await asyncio.wait_for(client(server, listening), 30)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(main())


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"", 0),
        (HEAD, 0),
        (HEAD + b"\r\n" + HEAD, 1),
        (HEAD + b"content-length: 9\r\n\r\n1", 1),
    ],
    ids=["silent", "half a head", "half a second head", "half a body"],
)
def test_who_does_not_ask_is_left(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, answers: int
) -> None:
    monkeypatch.setattr(module, "_ASK_SECONDS", 0.4)

    async def client(_server: uvicorn.Server, listening: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        received = b""
        try:
            for start in range(len(sent)):
                writer.write(sent[start : start + 1])
            received += await reader.read(4096) if answers else b""
            writer.write(b"x")
            received += await reader.read()
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        assert received.count(b"200 OK") == answers

    with_server(client)


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"\x16\x03\x01\x00\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\n\r\n", [400]),
        (HEAD + b"x: " + bytes(2**17), [400]),
        (HEAD + b"content-length: -1\r\n\r\n", [400]),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", [200]),
        (HEAD + b"\r\n" + HEAD + b"\r\nnone\r\n\r\n", [200, 200, 400]),
        (HEAD + b"connection: upgrade\r\nupgrade: websocket\r\n\r\nnone\r\n\r\n", [200, 400]),
    ],
    ids=["tls", "no host", "long", "length", "late chunk", "after two", "upgrade"],
)
def test_what_is_no_request_is_refused_in_words(
    sent: bytes, statuses: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The first bytes of TLS, too long a head, or what comes behind requests; nothing is logged."""
    refusals = Refusals()

    async def client(_server: uvicorn.Server, listening: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(sent)
        received = b""
        if statuses == [200]:  # a chunk that is none comes when all is answered
            received = await reader.readuntil(b"done")
            writer.write(b"none\r\n")
        with suppress(ConnectionResetError):
            while part := await reader.read(2**16):
                received += part
        writer.close()
        assert [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+) ", received)] == statuses
        assert (b"expected requests of HTTP/1.1" in received) == (statuses[-1] == 400)

    with_server(client, refusals)

    assert refusals.take() == [("INVALID_ARGUMENT", "MALFORMED_HTTP", 1)]
    assert not caplog.records


def test_who_does_not_speak_tls_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANDSHAKE_SECONDS", 0.05)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        async with listening:
            reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
            try:
                return await asyncio.wait_for(reader.read(), 30)
            finally:
                writer.close()

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert runner.run(main()) == b""


def test_who_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_SECONDS", 0.05)

    async def client(server: uvicorn.Server, listening: socket.socket) -> None:
        _, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while not server.server_state.total_requests:
            await asyncio.sleep(0.01)
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        writer.close()

    with_server(client)


def test_who_reads_slowly_is_waited_for() -> None:
    """The connection ends at the first look that finds no less to send than the one before."""
    looks: list[Callable[[], None]] = []
    sizes = [9, 5, 4, 4]
    protocol = object.__new__(PatientProtocol)
    protocol._timers = {}
    protocol.loop = Mock(call_later=lambda _seconds, look: looks.append(look))
    protocol.transport = Mock(get_write_buffer_size=lambda: sizes.pop(0))

    protocol._wait_for_reader()
    for _ in range(2):
        looks.pop()()
        protocol.transport.abort.assert_not_called()
    looks.pop()()

    protocol.transport.abort.assert_called_once()
    assert looks == []
