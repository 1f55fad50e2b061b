"""Where every call begins and ends: its message, errors as statuses, the log line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias, cast

import grpc

from kshot.bundle.signals.tracing import find_traceparent
from kshot.server.access.audit import AuditLog
from kshot.server.access.failed_keys import FailedKeys
from kshot.server.access.gate import Gate, Metadata
from kshot.server.access.quotas import Quotas
from kshot.server.admission import Admission
from kshot.server.call_context import Call, begin_call
from kshot.server.config import ServerConfig
from kshot.server.errors import (
    CallCancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotFound,
    RequestError,
    TooManyFiles,
    Unauthenticated,
)
from kshot.server.event_log import LOGGER, log_call, log_event
from kshot.server.limits.descriptors import out_of_descriptors
from kshot.server.rpc.calls import CallLimits, Context, Kind, OpenCall, OpenCalls
from kshot.server.rpc.messages import MessageReader
from kshot.server.rpc.methods import Method
from kshot.server.rpc.status import REQUEST_ID_TRAILER, message_of, trailers_of
from kshot.server.watch.observer import CallObserver

PEER = "x-kshot-peer"
"""The metadata by which the gateway names its caller."""
# Calls that neither adapt nor predict are short; this bounds their number.
_SPARE_CALLS = 256
# Calls of standard services: of one connection, and those of all that last.
_STANDARD_CALLS = 16
_STANDARD_STREAMS = 256
_STANDARD_BYTES = 4096
# How long gRPC may take to tell that a call without a message has ended.
_END_SECONDS = 0.05

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]
Work = Callable[[OpenCall], Awaitable[Any]]


@dataclass(frozen=True)
class Guards:
    """Who may call, how much, and where it is noted."""

    gate: Gate
    quotas: Quotas
    audit: AuditLog
    failed_keys: FailedKeys = field(default_factory=FailedKeys)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of all services: every one is registered as a stream of bytes.

    So a call is counted, and `guards` let it in, before its message has come; that looks the same
    on the wire. `services` are our own; `calls` has their calls whose message has come.
    """

    def __init__(
        self,
        services: Iterable[str],
        config: ServerConfig,
        max_fields: Callable[[], int],
        guards: Guards,
        observer: CallObserver,
    ) -> None:
        self._services = frozenset(services)
        self._guards = guards
        self._observer = observer
        places = config.max_adapt_queue + config.max_predict_queue + _SPARE_CALLS
        self.calls = Admission(places)
        self._streams = Admission(_STANDARD_STREAMS)
        limits = CallLimits(
            {Kind.OWN: config.max_connection_calls, Kind.STANDARD: _STANDARD_CALLS},
            config.max_message_bytes,
            config.message_timeout,
            config.answer_timeout,
        )
        self._open = OpenCalls(limits, _refuse)
        self._handlers: dict[str, Handler] = {}
        self._messages = MessageReader(config.max_message_bytes, max_fields)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler with its beginning and end around it."""
        method = str(handler_call_details.method)
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return grpc.stream_stream_rpc_method_handler(cast(Any, self._unknown(method)))
            self._handlers[method] = self._wrapped(Method.of(method, self._services), handler)
        return self._handlers[method]

    def _wrapped(self, method: Method, handler: Handler) -> Handler:
        if handler.response_streaming:
            stream = self._streaming(method, handler)
            return grpc.stream_stream_rpc_method_handler(cast(Any, stream))
        return grpc.stream_unary_rpc_method_handler(cast(Any, self._unary(method, handler)))

    def _unknown(self, method: str) -> Unary:
        async def refuse(_requests: object, context: Context) -> None:
            metadata = _metadata(context)
            call = _begin("unknown", context, metadata)
            self._observer.begin(call)
            error: RequestError = MethodNotFound()
            try:
                self._guards.gate.admit(call, method, metadata)
            except RequestError as refusal:  # who may not call hears nothing of what there is
                error = refusal
            if isinstance(error, Unauthenticated):
                await self._guards.failed_keys.answer_slowly(call.connection)
            self._guards.audit.write_call(call, error.reason)
            await _refuse(call, context, error)

        return refuse

    def _unary(self, method: Method, handler: Handler) -> Unary:
        serialize = cast("Callable[[Any], bytes]", handler.response_serializer)
        several = handler.request_streaming
        handle = cast(Unary, handler.stream_unary if several else handler.unary_unary)

        async def answer(_requests: object, context: Context) -> bytes:
            async def work(opened: OpenCall) -> bytes:
                message = await self._read(opened)
                with self._place(method.kind):
                    request = await self._parse(handler, message, opened)
                    del message  # the request has its content
                    if several:
                        request = self._requests(request, handler, opened)
                    answer = await handle(request, context)
                    content = answer if isinstance(answer, bytes) else serialize(answer)
                self._open.send(opened, len(content))
                return content

            return cast(bytes, await self._run(method, context, work))

        return answer

    def _streaming(self, method: Method, handler: Handler) -> Unary:
        serialize = cast("Callable[[Any], bytes]", handler.response_serializer)

        async def answer(_requests: object, context: Context) -> None:
            async def write(opened: OpenCall, responses: AsyncIterator[Any]) -> None:
                async with aclosing(cast(Any, responses)):
                    async for response in responses:
                        content = serialize(response)
                        self._open.send(opened, len(content))
                        await context.write(content)
                        self._open.go_on(opened)
                self._open.send(opened, 0)

            async def work(opened: OpenCall) -> None:
                message = await self._read(opened)
                with self._place(method.kind, lasts=True):
                    request = await self._parse(handler, message, opened)
                    del message  # the request has its content
                    if handler.request_streaming:
                        requests = self._requests(request, handler, opened)
                        await write(opened, cast(Stream, handler.stream_stream)(requests, context))
                    else:
                        await write(opened, cast(Stream, handler.unary_stream)(request, context))

            await self._run(method, context, work)

        return answer

    async def _run(self, method: Method, context: Context, work: Work) -> Any:  # noqa: ANN401 -- what `work` returns
        """Do a call's work between its beginning and its end."""
        metadata = _metadata(context)  # gRPC makes it anew each time
        call = _begin(method.name, context, metadata)
        self._observer.begin(call, method.service)
        try:
            opened = self._open.begin(call, context, method.kind)
            self._guards.gate.admit(call, method.path, metadata)
            if method.kind is Kind.OWN:
                await self._guards.quotas.begin_call()
            result = await work(opened)
        except BaseException as error:
            self._open.refused(call)
            refusal = _refusal(call, error)
            # A deletion may be done although its caller has left.
            self._guards.audit.write_call(call, (refusal or CallCancelled).reason)
            if refusal is None:
                raise
            if isinstance(refusal, Unauthenticated):
                self._open.step_aside(opened)
                await self._guards.failed_keys.answer_slowly(call.connection)
        else:
            self._open.accepted(call)
            self._guards.audit.write_call(call, "OK")
            if method.kind is Kind.OWN:
                log_call(call, "OK")
            return result
        finally:
            call.ended = True
        return await _refuse(call, context, refusal)

    def _place(self, kind: Kind, lasts: bool = False) -> AbstractContextManager[None]:
        """Return a place for a call; those of standard services need one only if they last."""
        if kind is Kind.OWN:
            return self.calls.admit()
        return self._streams.admit() if lasts else nullcontext()

    async def _read(self, opened: OpenCall) -> bytes:
        """Read the message of a call, or the first of several."""
        content = await self._open.read(opened)
        if content is None:
            # Either gRPC is about to cancel this call, or there is none.
            await asyncio.sleep(_END_SECONDS)
            raise InvalidRequest.about("request", "expected a message, got none")
        return content

    async def _parse(self, handler: Handler, content: bytes, opened: OpenCall) -> Any:  # noqa: ANN401 -- any message
        if opened.kind is Kind.STANDARD and len(content) > _STANDARD_BYTES:
            problem = f"expected at most {_STANDARD_BYTES} bytes, got {len(content)}"
            raise InvalidRequest.about("request", problem)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        return await self._messages.parse(parse, content, opened.call)

    async def _requests(
        self,
        first: Any,  # noqa: ANN401 -- any message
        handler: Handler,
        opened: OpenCall,
    ) -> AsyncIterator[Any]:
        yield first
        while (content := await self._open.read(opened)) is not None:
            yield await self._parse(handler, content, opened)


def _begin(name: str, context: Context, metadata: Metadata) -> Call:
    call = begin_call(name, context.time_remaining(), _peer(context, metadata))
    call.traceparent = find_traceparent(metadata)
    context.set_trailing_metadata(((REQUEST_ID_TRAILER, call.request_id),))
    return call


def _peer(context: Context, metadata: Metadata) -> str:
    """Return who calls: the peer, or whom the gateway names, whose socket is ours alone."""
    peer = str(context.peer())
    if not peer.startswith("unix:"):
        return peer
    return next((str(value) for name, value in metadata if name == PEER), peer)


def _metadata(context: Context) -> Metadata:
    return cast(Metadata, context.invocation_metadata() or ())


def _refusal(call: Call, error: BaseException) -> RequestError | None:
    """Return what a caller hears of an error, None if the call has ended already."""
    if isinstance(error, grpc.aio.AbortError):  # it was answered while its message came
        _forget_later(error)
        return None
    # An error of gRPC itself comes where it cannot send.
    if isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.InternalError):
        gone = DeadlineExceeded() if call.timed_out() else CallCancelled()
        log_call(call, gone.code.name, gone.reason)
        return None
    return error if isinstance(error, RequestError) else _foreseen(call, error)


async def _refuse(call: Call, context: Context, error: RequestError) -> NoReturn:
    """Log a failed call and answer it."""
    log_call(call, error.code.name, error.reason, error.field)
    _forget_frames(error)
    try:
        await context.abort(error.code, message_of(error), trailers_of(error, call.request_id))
    except grpc.aio.InternalError as failure:  # the client has left
        raise asyncio.CancelledError from failure
    except grpc.aio.AbortError as aborted:
        _forget_later(aborted)
        raise


def _forget_later(error: BaseException) -> None:
    """Free an error's frames once this task has ended: gRPC's call keeps it, and they the call."""
    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(lambda _task: _forget_frames(error))


def _forget_frames(error: BaseException | None) -> None:
    """Free what the frames of an error hold, as a large message."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _foreseen(call: Call, error: BaseException) -> RequestError:
    """Return what a caller hears of an error that is not meant for callers; log it."""
    if not isinstance(error, Exception):
        raise error
    if isinstance(error, NotImplementedError):
        return MethodNotFound()
    if out_of_descriptors(error):
        log_event("too_many_open_files", logging.ERROR, request_id=call.request_id)
        return TooManyFiles()
    fields = {"fields": {"request_id": call.request_id}}
    LOGGER.log(logging.ERROR, "failure", exc_info=error, extra=fields)
    return InternalError(call.request_id)
