"""Makes the calls of exchanges, and waits for their answers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from kshot.client.connection.connection import Connection
from kshot.client.errors import UnavailableError
from kshot.client.exchange.call import Answer, Call, Exchange, advance
from kshot.client.exchange.known_server import KnownServer

_Result = TypeVar("_Result")


class Caller:
    """The calls of a client to a server, of which it knows the more the more it calls."""

    def __init__(self, connection: Connection, server: KnownServer) -> None:
        self._connection = connection
        self._server = server

    def run(self, exchange: Exchange[_Result]) -> _Result:
        """Make the calls of an exchange, and return its result; raises `KshotError`."""
        step = advance(exchange)
        while isinstance(step, Call):
            step = advance(exchange, self._answer(step))
        return step.value

    def stream(self, call: Call) -> Generator[Any]:
        """Return the parts of a response; the call is made for the first, and ends with them."""
        self._connection.check_process()
        method = getattr(self._connection.stub, call.method)
        return self._connection.stream(method, call.request, call.patience, call.names)

    def _answer(self, call: Call) -> Answer:
        method = getattr(self._connection.stub, call.method)
        try:
            return self._connection.call(method, call.request, call.patience, call.names)
        except UnavailableError:
            self._server.forget()
            raise
