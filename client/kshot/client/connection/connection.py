"""A channel to one server, and the calls on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc

from kshot.client.connection.addresses import check_address
from kshot.client.connection.channel import Patience, open_channel
from kshot.client.connection.credentials import Requested, read_credentials
from kshot.client.connection.forks import GATE, check_process, watch_forks
from kshot.client.errors import InputError, KshotError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kshot.v1.admin_pb2_grpc import AdminServiceStub

_Response = TypeVar("_Response", bound="Message")
Names: TypeAlias = Mapping[str, Callable[[int], str]]


class Connection:
    """The calls to a server at HOST:PORT, safe to share by threads, not by processes.

    Every call has a deadline. Failures are raised as `KshotError`.
    """

    def __init__(self, address: str, asked: Requested) -> None:
        self.address = address
        self._credentials = read_credentials(asked, check_address(address))
        check_process(address)
        watch_forks()
        self._process = os.getpid()
        self._closed = False
        self.connect()

    def connect(self) -> None:
        """Make a channel in place of the one before."""
        from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub  # with the first client

        self._channel = open_channel(self.address, self._credentials)
        self.stub = AdaptationServiceStub(self._channel)

    @property
    def admin_stub(self) -> AdminServiceStub:
        """The calls of an operator, on the same channel."""
        from kshot.v1.admin_pb2_grpc import AdminServiceStub  # most programs are not an operator's

        return AdminServiceStub(self._channel)

    def close(self) -> None:
        """End the calls under way; a child of the process leaves that to its parent."""
        if os.getpid() == self._process:
            self._closed = True
            self._channel.close()

    def check_process(self) -> None:
        """Raise `InputError` in a child of the process that made the connection."""
        check_process(self.address, self._process)

    def call(
        self,
        method: Callable[..., _Response],
        request: Message | Iterator[Message],
        patience: Patience,
        names: Names | None = None,
    ) -> tuple[_Response, float]:
        """Call a method of the stub; return its one response and its time in milliseconds.

        `names` has the caller's own names for repeated fields of the request, as `Asked` does.
        """
        self.check_process()
        started = time.perf_counter()
        try:
            with GATE.call():
                response = method(
                    request, timeout=patience.left, metadata=self._credentials.metadata
                )
        except grpc.RpcError as error:
            raise self._failure(error, patience.timeout, names) from error
        except ValueError as error:  # gRPC's error for a closed channel
            raise self._uncallable(error) from error
        took = time.perf_counter() - started
        patience.spend(took)
        return response, 1e3 * took

    def stream(
        self,
        method: Callable[..., Iterator[_Response]],
        request: Message | Iterator[Message],
        patience: Patience,
        names: Names | None = None,
    ) -> Generator[_Response]:
        """Call a method when its first part is wanted; the call ends with the iterator.

        `names` are as for `call`.
        """
        try:
            with GATE.call():
                call = method(request, timeout=patience.left, metadata=self._credentials.metadata)
                try:
                    yield from call
                finally:
                    call.cancel()  # type: ignore[attr-defined]  # as every call of gRPC has it
        except grpc.RpcError as error:
            raise self._failure(error, patience.timeout, names) from error
        except ValueError as error:  # gRPC's error for a closed channel
            raise self._uncallable(error) from error

    def _failure(self, error: grpc.RpcError, timeout: float, names: Names | None) -> KshotError:
        """Return the package's error for gRPC's, and make ready for the next call."""
        from kshot.client.connection.failures import unknown_host  # few calls fail
        from kshot.client.connection.status import Asked, error_from

        if unknown_host(error.details() or "") and not self._closed:
            self.connect()  # gRPC waits up to two minutes before it looks a name up again
        return error_from(error, Asked(self.address, timeout, names or {}, self._credentials))

    def _uncallable(self, error: ValueError) -> InputError:
        why = "this client is closed; make a new one" if self._closed else error
        return InputError(f"cannot call {self.address}: {why}")
