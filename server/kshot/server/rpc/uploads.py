"""The messages of an import: its header, then the chunks of the file."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kshot.server.errors import InvalidRequest
from kshot.server.lives.upload import UploadHeader
from kshot.server.rpc.decode import seconds_of
from kshot.v1 import adaptation_pb2 as wire

Requests = AsyncIterator[wire.ImportAdaptedModelRequest]


async def read_header(requests: Requests) -> UploadHeader:
    """Read the first message; raise `InvalidRequest` for a chunk."""
    async for request in requests:
        if request.WhichOneof("content") != "header":
            break
        header = request.header
        ttl = seconds_of(header.ttl) if header.HasField("ttl") else None
        return UploadHeader(header.sha256, ttl)
    raise InvalidRequest.about("header", "expected the header first, got none")


async def read_chunks(requests: Requests) -> AsyncIterator[bytes]:
    """Yield the chunks after the header; raise `InvalidRequest` for other messages."""
    async for request in requests:
        if (content := request.WhichOneof("content")) != "chunk":
            got = "another header" if content == "header" else "an empty message"
            raise InvalidRequest.about("chunk", f"expected only chunks after the header, got {got}")
        yield request.chunk
