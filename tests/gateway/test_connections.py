"""One host cannot take all connections; who finds no room hears why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kshot.gateway import connections as module
from kshot.gateway.connections import Admission
from kshot.gateway.listening import listen
from kshot.gateway.refusals import Refusals

Ask = Callable[[str], Awaitable[tuple[asyncio.StreamWriter, bytes]]]
REFUSED = [("UNAVAILABLE", "TOO_MANY_CONNECTIONS", 1)]


def with_listener(
    monkeypatch: pytest.MonkeyPatch, client: Callable[[Ask, Refusals], Awaitable[None]], tls: bool
) -> None:
    """Run a client of a port with room for four connections, which greets each that it takes."""
    monkeypatch.setattr(module, "_MOST_CONNECTIONS", 4)
    refusals = Refusals()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    async def main() -> None:
        (listening,), address = listen("127.0.0.1:0", Admission(refusals, tls=tls))
        place = ("127.0.0.1", int(address.rpartition(":")[2]))

        async def ask(host: str) -> tuple[asyncio.StreamWriter, bytes]:
            reader, writer = await asyncio.open_connection(*place, local_addr=(host, 0))
            try:
                return writer, await reader.read(4096)
            except ConnectionResetError:
                return writer, b""

        async with await asyncio.start_server(greet, sock=listening):
            await asyncio.wait_for(client(ask, refusals), 30)

    asyncio.run(main())


def test_a_host_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(ask: Ask, refusals: Refusals) -> None:
        first, *others = [await ask("127.0.0.1") for _ in range(3)]
        assert [said for _, said in (first, *others)] == [b"hello"] * 3

        refused, answer = await ask("127.0.0.1")

        refused.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        assert b"too many connections" in answer
        assert refusals.take() == REFUSED
        other, said = await ask("127.0.0.2")
        assert said == b"hello"
        first[0].close()
        other.close()
        while True:  # the server has seen that they left
            again, said = await ask("127.0.0.1")
            again.close()
            if said == b"hello":
                break
        for writer, _ in others:
            writer.close()

    with_listener(monkeypatch, client, tls=False)


def test_plain_words_are_not_sent_where_tls_is_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(ask: Ask, refusals: Refusals) -> None:
        taken = [await ask("127.0.0.1") for _ in range(3)]

        refused, answer = await ask("127.0.0.1")

        assert answer == b""
        assert refusals.take() == REFUSED
        for writer, _ in (*taken, (refused, b"")):
            writer.close()

    with_listener(monkeypatch, client, tls=True)
