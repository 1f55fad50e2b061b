"""A channel of an event loop to one server, and the calls on it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from kshot.client.connection.addresses import check_address
from kshot.client.connection.channel import open_async_channel
from kshot.client.connection.credentials import Requested, read_credentials
from kshot.client.connection.forks import GATE, check_loops, check_process, watch_forks
from kshot.client.errors import CancelledError, InputError, KshotError

if TYPE_CHECKING:
    from kshot.client.exchange.call import Answer, Call


class AsyncConnection:
    """The calls to a server at HOST:PORT, for the tasks of the event loop that makes the first.

    Every call has a deadline. Failures are raised as `KshotError`.
    """

    def __init__(self, address: str, asked: Requested) -> None:
        self.address = address
        self._credentials = read_credentials(asked, check_address(address))
        check_process(address)
        check_loops(address)
        watch_forks()
        self._process = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = set[Any]()  # under way
        self.closed = False

    def connect(self) -> None:
        """Make a channel in place of the one before."""
        from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub  # with the first call

        self._channel = open_async_channel(self.address, self._credentials)
        self._stub = AdaptationServiceStub(self._channel)

    async def close(self) -> None:
        """End the calls under way; a child of the process leaves that to its parent."""
        self.closed = True
        if os.getpid() == self._process and self._loop is asyncio.get_running_loop():
            for call in list(self._calls):
                call.cancel()
            await self._channel.close()

    async def call(self, call: Call) -> Answer:
        """Make a call; return its one response and its time in milliseconds."""
        started = time.perf_counter()
        begun, thread = await self.begin(call)
        try:
            response = await begun
        except (grpc.RpcError, asyncio.CancelledError) as error:
            await self.fail(error, call)
        finally:
            self.end(begun, thread)
        took = time.perf_counter() - started
        call.patience.spend(took)
        return response, 1e3 * took

    async def begin(self, call: Call) -> tuple[Any, int]:
        """Begin a call of gRPC; return it with what `end` takes beside it."""
        thread = await GATE.begin()
        try:
            self._check()
            method = getattr(self._stub, call.method)
            metadata = self._credentials.metadata
            begun = method(call.request, timeout=call.patience.left, metadata=metadata)
        except BaseException:
            GATE.end(thread)
            raise
        self._calls.add(begun)
        return begun, thread

    def end(self, begun: Any, thread: int) -> None:  # noqa: ANN401 -- a call of gRPC of any kind
        """End a call that was begun, whether or not it is done."""
        begun.cancel()
        self._calls.discard(begun)
        GATE.end(thread)

    async def fail(self, error: BaseException, call: Call) -> NoReturn:
        """Raise the package's error for gRPC's; a task that was cancelled stays so."""
        if isinstance(error, grpc.RpcError):
            from kshot.client.connection.failures import unknown_host  # few calls fail

            if unknown_host(error.details() or "") and not self.closed:
                self.connect()  # gRPC waits up to two minutes before it looks a name up again
            # A thread may look at the port, which takes up to a second.
            raise await asyncio.to_thread(self._error, error, call) from error
        if self.closed and not task_cancelled():
            words = f"the client for {self.address} was closed during the call"
            raise CancelledError(words) from error
        raise error

    def _error(self, error: grpc.RpcError, call: Call) -> KshotError:
        from kshot.client.connection.status import Asked, error_from  # few calls fail

        asked = Asked(self.address, call.patience.timeout, call.names, self._credentials)
        return error_from(error, asked)

    def _check(self) -> None:
        """Make the channel for the first call; raise `InputError` where no call can be made."""
        check_process(self.address, self._process)
        if self.closed:
            raise InputError(f"cannot call {self.address}: this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self.connect()
        elif self._loop is not loop:
            raise InputError(
                f"cannot call {self.address}: this client belongs to another event loop; make a "
                f"new one here: AsyncClient({self.address!r})"
            )


def task_cancelled() -> bool:
    """Tell whether the running task is asked to end, not only a call of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
