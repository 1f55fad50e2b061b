"""Where every call begins and ends: parsing, errors as statuses, the log line."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, cast

import grpc
from google.protobuf.message import DecodeError

from kshot.server.admission import Admission
from kshot.server.call_context import Call, begin_call
from kshot.server.errors import (
    CallCancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotFound,
    RequestError,
)
from kshot.server.event_log import LOGGER, log_call
from kshot.server.rpc.status import REQUEST_ID_TRAILER, message_of, trailers_of

# Parsing this much takes under a millisecond; larger messages are parsed in a thread.
_PARSE_ON_LOOP_BYTES = 256 * 1024

Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the methods of one service; other services pass unchanged.

    `calls` counts the running ones.
    """

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"
        self.calls = Admission(sys.maxsize)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the method's handler with its beginning and end around it."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            # A stream handler refuses any kind of call before it reads anything.
            return grpc.stream_stream_rpc_method_handler(cast(Any, _refuse))
        if not method.startswith(self._prefix):
            return handler
        name = method.removeprefix(self._prefix)
        parse = cast("Callable[[bytes], Any]", handler.request_deserializer)
        serialize = handler.response_serializer
        # Without a deserializer, gRPC hands over the bytes.
        if handler.response_streaming:
            stream = self._around_stream(name, parse, cast(Stream, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(
                cast(Any, stream), response_serializer=serialize
            )
        unary = self._around_unary(name, parse, cast(Unary, handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(cast(Any, unary), response_serializer=serialize)

    def _around_unary(self, name: str, parse: Callable[[bytes], Any], handle: Unary) -> Unary:
        async def answer(content: bytes, context: Context) -> Any:  # noqa: ANN401 -- any message
            call = _begin(name, context)
            with self.calls.admit():
                try:
                    response = await handle(await _parse(parse, content, call), context)
                except BaseException as error:
                    await _end(call, context, error)
                finally:
                    call.ended = True
                log_call(call, "OK")
                return response

        return answer

    def _around_stream(self, name: str, parse: Callable[[bytes], Any], handle: Stream) -> Stream:
        async def answer(content: bytes, context: Context) -> AsyncIterator[Any]:
            call = _begin(name, context)
            with self.calls.admit():
                try:
                    async for response in handle(await _parse(parse, content, call), context):
                        yield response
                except BaseException as error:
                    await _end(call, context, error)
                finally:
                    call.ended = True
                log_call(call, "OK")

        return answer


async def _refuse(_requests: object, context: Context) -> None:
    await _end(_begin("unknown", context), context, MethodNotFound())


def _begin(name: str, context: Context) -> Call:
    call = begin_call(name, context.time_remaining(), context.peer())
    context.set_trailing_metadata(((REQUEST_ID_TRAILER, call.request_id),))
    return call


async def _parse(parse: Callable[[bytes], Any], content: bytes, call: Call) -> Any:  # noqa: ANN401 -- any message
    with call.measure("decode"):
        try:
            if len(content) <= _PARSE_ON_LOOP_BYTES:
                return parse(content)
            return await asyncio.to_thread(parse, content)
        except DecodeError as error:
            raise InvalidRequest.about(
                "request", "expected a message of this method, got other bytes"
            ) from error


async def _end(call: Call, context: Context, error: BaseException) -> NoReturn:
    """Log a failed call and answer it; only the log tells of errors that are no `RequestError`."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        gone = DeadlineExceeded() if call.timed_out() else CallCancelled()
        log_call(call, gone.code.name, gone.reason)
        raise error
    if not isinstance(error, RequestError):
        if not isinstance(error, Exception):
            raise error
        LOGGER.log(
            logging.ERROR,
            "failure",
            exc_info=error,
            extra={"fields": {"request_id": call.request_id}},
        )
        error = InternalError(call.request_id)
    log_call(call, error.code.name, error.reason)
    await context.abort(error.code, message_of(error), trailers_of(error, call.request_id))
