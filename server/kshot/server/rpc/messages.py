"""Messages from bytes to objects: bounded before they are parsed, large ones one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError

from kshot.server.call_context import Call, until_sent
from kshot.server.errors import InvalidRequest, QueueFull
from kshot.server.limits.message_scan import MalformedError, holds_at_most
from kshot.server.limits.pace import LARGE_BYTES
from kshot.server.limits.shares import Shares
from kshot.server.predict.catalog import Catalog

# Parsing this much takes under a millisecond; larger messages are parsed in a thread.
_ON_LOOP = 2**18
# How many messages of the greatest size may be held by calls.
_AT_ONCE = 16

_LEAST_FIELDS = 20_000
# Packed numbers that a message may have besides: as uint8 levels they take 16 MiB once parsed.
_NUMBERS = {"inference.ModelInferRequest": 2**22}

Parse = Callable[[bytes], Any]


def max_fields(catalog: Catalog) -> int:
    """Return how many fields a message may have: twice what any request to a model can need."""
    limits = [model.bundle.manifest.limits for model in catalog.versions]
    most = max(2 * each.max_support_count + each.max_query_count + each.max_way for each in limits)
    return max(_LEAST_FIELDS, 2 * most)


class MessageReader:
    """Parses messages; a call holds room for the bytes of its message until it has ended."""

    def __init__(self, max_bytes: int, max_fields: Callable[[], int]) -> None:
        """Take messages of so many bytes and fields; the number of fields may change."""
        self._room = Shares(_AT_ONCE * max_bytes)
        self._max_fields = max_fields
        self._parsing = asyncio.Lock()

    async def parse(self, parse: Parse, content: bytes, call: Call) -> Any:  # noqa: ANN401 -- any message
        """Return a message; raise `InvalidRequest` or `QueueFull`."""
        size = len(content)
        if size > LARGE_BYTES:
            if not self._room.try_take(call.caller, size):
                raise QueueFull
            until_sent(partial(self._room.give, call.caller, size))
        try:
            if size <= _ON_LOOP:
                with call.measure("decode"):
                    return self._parse(parse, content)
            with call.measure("queue"):
                await self._parsing.acquire()
            try:
                with call.measure("decode"):
                    return await asyncio.to_thread(self._parse, parse, content)
            finally:
                self._parsing.release()
        except (DecodeError, MalformedError) as error:
            raise InvalidRequest.about(
                "request", "expected a message of this method, got other bytes"
            ) from error

    def _parse(self, parse: Parse, content: bytes) -> Any:  # noqa: ANN401 -- any message
        if len(content) <= LARGE_BYTES:
            return parse(content)
        descriptor = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined] # a message's class
        numbers = _NUMBERS.get(descriptor.full_name, 0)
        max_fields = self._max_fields()
        if not holds_at_most(content, descriptor, max_fields, numbers):
            raise InvalidRequest.about(
                "request",
                f"expected at most {max_fields} items, labels and other fields in all, "
                f"got more; send fewer at a time{', or as raw contents' if numbers else ''}",
            )
        return parse(content)
