"""Connections, bounded for each host before anything of them is read."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Self

from starlette.responses import Response

from kshot.gateway.errors import RequestError
from kshot.gateway.host_shares import HostShares
from kshot.gateway.refusals import Refusals

# Half of them are for one host at most, so that two are needed to keep others out.
_MOST_CONNECTIONS = 512


class Admission:
    """The room for connections; who finds none hears why, unless the port speaks TLS."""

    def __init__(self, refusals: Refusals, *, tls: bool) -> None:
        self.shares = HostShares(_MOST_CONNECTIONS)
        self._refusals = refusals
        self._tls = tls

    def refuse(self, connection: socket.socket) -> None:
        """Close a connection, with an answer to whatever it asks for."""
        problem = "too many connections, of this host or of all; close some, or try again"
        answer = self._refusals.answer(RequestError("TOO_MANY_CONNECTIONS", problem))
        with connection, suppress(OSError):
            if not self._tls:
                connection.setblocking(False)
                connection.send(as_sent(answer))
                connection.shutdown(socket.SHUT_WR)


class FairListener(socket.socket):
    """A listening socket whose connections hosts share; they count from before TLS begins."""

    admission: Admission

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; raise `ConnectionAbortedError` where its host has too many."""
        made, address = super().accept()
        host, shares = address[0], self.admission.shares
        if not shares.try_take(host):
            self.admission.refuse(made)
            raise ConnectionAbortedError
        return _Connection.counted(made, lambda: shares.give(host)), address


class _Connection(socket.socket):
    """A connection that counts until it is closed."""

    _leave: Callable[[], None] | None = None

    @classmethod
    def counted(cls, made: socket.socket, leave: Callable[[], None]) -> Self:
        """Take the place of a connection; `leave` is called at its end."""
        connection = cls(fileno=made.detach())
        connection._leave = leave
        return connection

    def close(self) -> None:
        """Close the connection."""
        super().close()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


def as_sent(answer: Response) -> bytes:
    """Return the bytes of an answer that is the last of its connection."""
    headers = {**answer.headers, "connection": "close"}
    status = HTTPStatus(answer.status_code)
    lines = [f"HTTP/1.1 {status} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + bytes(answer.body)
