"""Connections whose other side neither asks nor reads: they end, and others have their place."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kshot.gateway.connections import as_sent
from kshot.gateway.errors import RequestError
from kshot.gateway.refusals import Refusals

_ASK_SECONDS = 10.0
_READ_SECONDS = 20.0
_HANDSHAKE_SECONDS = 10.0
_EXPECTED = "expected requests of HTTP/1.1 whose address and headers have at most 64 KiB in all"


class PatientLoop(asyncio.SelectorEventLoop):
    """Waits so long for a connection to speak TLS; asyncio waits a minute."""

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:  # noqa: ANN401 -- asyncio's own
        """Listen, with patience."""
        if named.get("ssl") is not None:
            named["ssl_handshake_timeout"] = _HANDSHAKE_SECONDS
        return await super().create_server(*arguments, **named)


class PatientProtocol(H11Protocol):
    """Waits so long for the head of a request, and for a caller to read some of an answer.

    Uvicorn ends only connections that send nothing at all after an answer.
    """

    def __init__(self, *arguments: Any, refusals: Refusals, **named: Any) -> None:  # noqa: ANN401 -- uvicorn's own
        super().__init__(*arguments, **named)
        self._refusals = refusals
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._timers["ask"] = self.loop.call_later(_ASK_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that begin no request do not make the wait longer."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("ask")
        elif "ask" not in self._timers:
            self._timers["ask"] = self.loop.call_later(_ASK_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request, and end the connection."""
        del msg
        error = RequestError("MALFORMED_HTTP", _EXPECTED)
        answer = self._refusals.answer(error)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else there is an answer already
            self.transport.write(as_sent(answer))
        self.transport.close()

    def pause_writing(self) -> None:
        """Begin to wait for a caller that reads slowly."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Go on."""
        self._stop("read")
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop("ask")
        self._stop("read")
        super().connection_lost(exc)

    def _wait_for_reader(self, before: int | None = None) -> None:
        """End the connection if no more of the answer has left than `before`."""
        left = self.transport.get_write_buffer_size()
        if before is not None and left >= before:
            self.transport.abort()
            return
        look = partial(self._wait_for_reader, left)
        self._timers["read"] = self.loop.call_later(_READ_SECONDS, look)

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
