"""What flooders send: requests that cost the server much, or connections that only hold places."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from PIL import Image

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.reliability.connections import EMPTY_SETTINGS, PREFACE, frame, headers

CALLS = 64
WAY = 5
_MANY = 1000
_SIDE, _FILE_SIDE, _FILES = 28, 600, 150
_COARSE = 6  # so that files are small and take long
_PAUSE, _SECONDS = 0.05, 600.0
_METHOD = f"/{wire.DESCRIPTOR.services_by_name['AdaptationService'].full_name}/"
# An attack on memory: items of two bytes each, and so many messages at once.
_EMPTY_ITEMS, _LARGE_CALLS = 8_000_000, 12
# Answers of nearly the greatest size, to a connection that has no room for any.
_NAME_BYTES, _NAMES, _TOP = 256, 50, 12
_UNREAD_CALLS, _UNREAD_CONNECTIONS, _UNREAD_SECONDS = 40, 1, 1.0
_SILENT_CONNECTIONS, _SILENT_SECONDS = 12, 5.0


def support_set(count: int, seed: int, way: int = WAY) -> wire.SupportSet:
    """Draw a support set."""
    return wire.SupportSet(
        images=pictures(count, seed),
        class_indices=[index % way for index in range(count)],
        class_names=[
            str(index).rjust(_NAME_BYTES) if way > WAY else str(index) for index in range(way)
        ],
    )


def pictures(count: int, seed: int, side: int = _SIDE) -> wire.Images:
    """Draw pictures of noise as a tensor."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)
    shape, data = pixels.shape, pixels.tobytes()
    return wire.Images(tensor=wire.Tensor(datatype="UINT8", shape=shape, data=data))


def _files(count: int, seed: int) -> wire.Images:
    pixels = np.random.default_rng(seed).integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((_FILE_SIDE,) * 2).save(written, "JPEG", quality=30)
    return wire.Images(encoded=wire.EncodedImages(items=[written.getvalue()] * count))


@dataclass(frozen=True)
class Target:
    """The server to flood, and the one connection of calls."""

    address: str
    model: str
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:  # noqa: ANN401 -- an asynchronous stub, which has no type
        """Return the stub of the connection."""
        return AdaptationServiceStub(self.channel)

    async def adapted(self, support: wire.SupportSet) -> str:
        """Adapt in one step; return the adapted model's id."""
        request = wire.AdaptRequest(model=self.model, support_set=support)
        request.options.step_count = 1
        answer = await self.stub.Adapt(request, timeout=_SECONDS)
        return str(answer.adapted_model.id)

    async def repeat(self, method: str, message: bytes, calls: int = CALLS) -> None:
        """Have so many calls under way, each begun again as soon as it is answered or refused."""
        send: Any = self.channel.unary_unary(_METHOD + method)

        async def often() -> None:
            while True:
                try:
                    await send(message, timeout=_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        await asyncio.sleep(_PAUSE)
                    elif error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                        raise

        await _together(often() for _ in range(calls))

    async def connect(self, content: bytes, connections: int, seconds: float) -> None:
        """Hold connections that send bytes and read nothing; leave after a time and come again."""
        host, _, port = self.address.rpartition(":")

        async def often() -> None:
            while True:
                with suppress(OSError):
                    _reader, writer = await asyncio.open_connection(host, int(port), limit=1)
                    writer.write(content)
                    await asyncio.sleep(seconds)
                    writer.transport.abort()
                await asyncio.sleep(_PAUSE)

        await _together(often() for _ in range(connections))


async def _together(tasks: Any) -> None:  # noqa: ANN401 -- coroutines
    running = [asyncio.create_task(task) for task in tasks]
    print("flooding", flush=True)
    await asyncio.gather(*running)


async def _predict(target: Target) -> None:
    adapted = await target.adapted(support_set(WAY, 1))
    request = wire.PredictRequest(adapted_model=adapted, queries=pictures(_MANY, 1))
    await target.repeat("Predict", request.SerializeToString())


async def _adapt(target: Target) -> None:
    request = wire.AdaptRequest(model=target.model, support_set=support_set(_MANY, 1))
    request.options.step_count = 200
    request.options.ttl.FromSeconds(60)
    await target.repeat("Adapt", request.SerializeToString())


async def _tail(target: Target) -> None:
    request = wire.AdaptRequest(model=target.model, support_set=support_set(50, 1))
    request.options.time_budget.FromSeconds(60)
    request.options.ttl.FromSeconds(60)
    await target.repeat("Adapt", request.SerializeToString())


async def _decode(target: Target) -> None:
    adapted = await target.adapted(support_set(WAY, 1))
    request = wire.PredictRequest(adapted_model=adapted, queries=_files(_FILES, 1))
    await target.repeat("Predict", request.SerializeToString())


async def _support(target: Target) -> None:
    """Ask in mode `support_and_query` for as much as one request may run."""
    adapted = await target.adapted(support_set(_MANY, 1))
    found = await target.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=_SECONDS)
    macs = next(each.image_mac_count for each in found.models if each.model == target.model)
    most = min(found.limits.max_predict_image_count, found.limits.max_predict_mac_count // macs)
    request = wire.PredictRequest(
        adapted_model=adapted,
        queries=pictures(max(1, most // (_MANY + 1)), 1),
        batch_norm_mode=wire.BATCH_NORM_MODE_SUPPORT_AND_QUERY,
    )
    await target.repeat("Predict", request.SerializeToString())


async def _fields(target: Target) -> None:
    """Send messages of many empty items, which take ten times their size once parsed."""
    queries = wire.PredictRequest.QUERIES_FIELD_NUMBER
    items = b"\x0a\0" * _EMPTY_ITEMS
    content = _field(queries, _field(wire.Images.ENCODED_FIELD_NUMBER, items))
    await target.repeat("Predict", content, _LARGE_CALLS)


async def _unread(target: Target) -> None:
    """Ask for large answers that have no room to come back in."""
    adapted = await target.adapted(support_set(_NAMES, 1, _NAMES))
    request = wire.PredictRequest(
        adapted_model=adapted, queries=pictures(_MANY, 1, side=1), top_k=_TOP
    )
    message = request.SerializeToString()
    sent = b"\0" + struct.pack(">I", len(message)) + message
    calls = b"".join(
        headers(stream, (_METHOD + "Predict").encode()) + frame(0, 1, stream, sent)
        for stream in range(1, 2 * _UNREAD_CALLS, 2)
    )
    no_room = frame(4, 0, 0, struct.pack(">HI", 4, 0))
    await target.connect(PREFACE + no_room + calls, _UNREAD_CONNECTIONS, _UNREAD_SECONDS)


async def _silent(target: Target) -> None:
    """Begin calls whose messages never come."""
    calls = b"".join(headers(stream) for stream in range(1, 2 * CALLS, 2))
    await target.connect(PREFACE + EMPTY_SETTINGS + calls, _SILENT_CONNECTIONS, _SILENT_SECONDS)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes (https://protobuf.dev/programming-guides/encoding)."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


Flood = Callable[[Target], Coroutine[Any, Any, None]]
FLOODS: Mapping[str, Flood] = {
    "predict": _predict,
    "adapt": _adapt,
    "decode": _decode,
    "tail": _tail,
    "support": _support,
    "fields": _fields,
    "unread": _unread,
    "silent": _silent,
}
