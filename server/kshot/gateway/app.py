"""The application: JSON over HTTP in front of the gRPC service, and the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as Path_
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from kshot.gateway.answers import CallerLeftError, Parts, unless_gone
from kshot.gateway.bodies import Bodies, check_content_type, host_of
from kshot.gateway.comments import read_comments
from kshot.gateway.errors import (
    REQUEST_ID,
    RequestError,
    document_of,
    invalid,
    request_id,
    response_of,
)
from kshot.gateway.guard import Guard
from kshot.gateway.messages import read_request, server_timing, write_message
from kshot.gateway.openapi import describe
from kshot.gateway.refusals import Refusals
from kshot.gateway.routes import ROUTES, Body, Route
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

PAGE = Path(__file__).with_name("page")
PEER = "x-kshot-peer"
"""The metadata that names the caller to the server; only this process reaches its socket."""
_DEFAULT_SECONDS, _MOST_SECONDS = 30.0, 3600.0
_CHUNK_BYTES = 1_000_000
# More would make gRPC refuse the call, in words of its own.
_MOST_HEADER = 1024
# Parsing less takes a few milliseconds at most.
_ON_LOOP = 2**18
_JSON, _LINES, _FILE = "application/json", "application/x-ndjson", "application/octet-stream"

Answer = Response | Parts
Metadata = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Caller:
    """Who asks, and how long the answer may take."""

    metadata: Metadata
    timeout: float

    @staticmethod
    def of(request: Request) -> Caller:
        """Read the headers and the parameter `timeout`; raise `RequestError`."""
        metadata = [(PEER, f"http:{host_of(request)}")]
        for name in ("authorization", "traceparent"):
            value = request.headers.get(name)
            if value is not None:
                if not (value.isascii() and value.isprintable() and len(value) <= _MOST_HEADER):
                    expected = f"expected at most {_MOST_HEADER} printable ASCII characters"
                    raise invalid(f"{name}: {expected}")
                metadata.append((name, value))
        text = request.query_params.get("timeout", str(_DEFAULT_SECONDS))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= _MOST_SECONDS:
            raise invalid(f"timeout: expected 0 to {_MOST_SECONDS:g} seconds, got {text[:50]!r}")
        return Caller(metadata, seconds)


class Gateway:
    """Makes calls of requests; `channel` reaches the server."""

    def __init__(
        self, channel: grpc.aio.Channel, max_message_bytes: int, refusals: Refusals
    ) -> None:
        self.refusals = refusals
        self._stub: Any = AdaptationServiceStub(channel)  # typed for blocking channels
        self._bodies = Bodies(max_message_bytes)
        self._parsing = asyncio.Lock()
        self._special: dict[str, Callable[[Any, Caller], Awaitable[Answer]]] = {
            "AdaptStream": self._stream,
            "ExportAdaptedModel": self._export,
        }

    async def answer(self, route: Route, request: Request) -> Answer:
        """Answer a request."""
        try:
            caller = Caller.of(request)
            if route.body is Body.FILE:
                return await self._import(request, caller)
            return await self._call(route, request, caller)
        except RequestError as error:
            return self.refusals.answer(error)
        except grpc.aio.AioRpcError as error:
            return response_of(error)
        except (CallerLeftError, ClientDisconnect):
            return Response(status_code=499)  # to nobody

    async def _call(self, route: Route, request: Request, caller: Caller) -> Answer:
        body: AbstractAsyncContextManager[bytearray] = nullcontext(bytearray())
        if route.body is Body.JSON:
            check_content_type(request, _JSON)
            body = self._bodies.read(request, partial(self._admit, caller))
        parameters = {}
        if route.body is Body.QUERY:
            parameters = {k: v for k, v in request.query_params.items() if k != "timeout"}
        # A body counts until its answer: so long is its message here.
        async with body as content:
            read = partial(read_request, route, content, parameters, request.path_params)
            if len(content) < _ON_LOOP:
                message = read()
            else:
                # One at a time bounds the memory.
                async with self._parsing:
                    message = await asyncio.to_thread(read)
            del content, read
            if (special := self._special.get(route.rpc)) is not None:
                return await unless_gone(request, special(message, caller))
            call = getattr(self._stub, route.rpc)(
                message, timeout=caller.timeout, metadata=caller.metadata
            )
            return await unless_gone(request, _unary(call))

    async def _admit(self, caller: Caller) -> None:
        """Ask the server whether it knows the caller; raise what it answers if not."""
        await self._stub.GetCapabilities(
            wire.GetCapabilitiesRequest(), timeout=caller.timeout, metadata=caller.metadata
        )

    async def _stream(self, message: wire.AdaptStreamRequest, caller: Caller) -> Answer:
        call = self._stub.AdaptStream(message, timeout=caller.timeout, metadata=caller.metadata)
        first = await _first(call)  # a request that is refused has no other answer
        return Parts(_lines(call, first), call.cancel, _LINES, {})

    async def _export(self, message: wire.ExportAdaptedModelRequest, caller: Caller) -> Answer:
        call = self._stub.ExportAdaptedModel(
            message, timeout=caller.timeout, metadata=caller.metadata
        )
        header = (await _first(call)).header
        headers = {
            "content-length": str(header.size_bytes),
            "content-disposition": f'attachment; filename="{header.adapted_model.id}.onnx"',
            "x-kshot-sha256": header.sha256,
        }
        return Parts(_chunks(call), call.cancel, _FILE, headers)

    async def _import(self, request: Request, caller: Caller) -> Answer:
        check_content_type(request, _FILE)
        header = wire.ImportHeader(sha256=request.query_params.get("sha256", ""))
        if (ttl := request.query_params.get("ttl")) is not None:
            try:
                header.ttl.FromJsonString(ttl)
            except ValueError as error:
                raise invalid(f"ttl: expected seconds as in 3600s, got {ttl[:50]!r}") from error
        async with self._bodies.read(request, partial(self._admit, caller)) as content:
            call = self._stub.ImportAdaptedModel(
                _upload(header, content), timeout=caller.timeout, metadata=caller.metadata
            )
            return await unless_gone(request, _unary(call))


async def _unary(call: Any) -> Response:  # noqa: ANN401 -- grpc.aio's calls have no common type
    try:
        message = await call
    finally:
        call.cancel()  # in vain once it has ended
    headers = {REQUEST_ID: request_id(await call.trailing_metadata())}
    if "timing" in message.DESCRIPTOR.fields_by_name:
        headers["Server-Timing"] = server_timing(message)
    return Response(write_message(message), media_type=_JSON, headers=headers)


async def _first(call: Any) -> Any:  # noqa: ANN401 -- a call, a message
    """Read the first message of a call; end the call where that does not come."""
    try:
        return await call.read()
    except BaseException:
        call.cancel()  # a read that is cancelled does not always do it
        raise


async def _lines(call: Any, first: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 -- a call, a message
    """Write the messages of a stream as lines; the last says why if it fails."""
    try:
        message = first
        while message is not grpc.aio.EOF:
            yield write_message(message).encode() + b"\n"
            message = await call.read()
    except grpc.aio.AioRpcError as error:
        yield json.dumps(document_of(error)).encode() + b"\n"


async def _chunks(call: Any) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 -- a call
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message.chunk


async def _upload(
    header: wire.ImportHeader, content: bytearray
) -> AsyncIterator[wire.ImportAdaptedModelRequest]:
    yield wire.ImportAdaptedModelRequest(header=header)
    for start in range(0, len(content), _CHUNK_BYTES):
        chunk = bytes(content[start : start + _CHUNK_BYTES])
        yield wire.ImportAdaptedModelRequest(chunk=chunk)


def make_app(gateway: Gateway, names: Sequence[str], grpc_address: str) -> ASGIApp:
    """Make the application; `names` are those of this host besides its addresses.

    `grpc_address` is the HOST:PORT that other clients use.
    """
    document = json.dumps(describe(ROUTES, read_comments()))

    async def index(_request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def openapi(_request: Request) -> Response:
        return Response(document, media_type=_JSON)

    async def server(_request: Request) -> Response:
        return JSONResponse({"grpc": grpc_address})

    async def health(_request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    routes: list[BaseRoute] = [
        _path(gateway, path) for path in dict.fromkeys(route.path for route in ROUTES)
    ]
    routes += [
        Path_("/", index),
        Path_("/v1/openapi.json", openapi),
        Path_("/v1/server", server),
        Path_("/healthz", health),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    handlers = {
        HTTPException: partial(_no_route, gateway.refusals),
        Exception: partial(_failure, gateway.refusals),
    }
    # Outside of what answers for failures, so that those answers have its headers too.
    application = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(application, names, gateway.refusals)


def _path(gateway: Gateway, path: str) -> Path_:
    """Let a path answer all its methods, so that a refusal of others can name these."""
    routes = {route.method: route for route in ROUTES if route.path == path}

    async def endpoint(request: Request) -> Any:  # noqa: ANN401 -- `Parts` is a response of our own
        method = "GET" if request.method == "HEAD" else request.method
        return await gateway.answer(routes[method], request)

    return Path_(path, endpoint, methods=list(routes))


async def _no_route(refusals: Refusals, request: Request, error: Exception) -> Response:
    if getattr(error, "status_code", 404) != 405:
        problem = "no such path; /v1/openapi.json lists them"
        return refusals.answer(RequestError("NO_SUCH_PATH", problem))
    listed = (getattr(error, "headers", None) or {}).get("Allow", "GET, HEAD")
    allowed = ", ".join(sorted(listed.split(", ")))
    problem = f"method: expected {allowed}, got {request.method[:20]}"
    return refusals.answer(RequestError("METHOD_NOT_ALLOWED", problem, {"Allow": allowed}))


async def _failure(refusals: Refusals, _request: Request, _error: Exception) -> Response:
    return refusals.answer(RequestError("INTERNAL", "the page's server failed; its log says why"))
