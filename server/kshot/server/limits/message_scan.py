"""Counts what a message holds before it is parsed: an empty item has 2 bytes, parsed it has 20."""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
# A field takes as much memory as this many packed numbers.
_PACKED = 16
_CONTINUED = bytes(range(128, 256))
# Numbers of fixed size travel packed too: bytes of each.
_WIDTH = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


class MalformedError(ValueError):
    """The bytes are no message."""


def holds_at_most(content: bytes, descriptor: Descriptor, most: int, numbers: int = 0) -> bool:
    """Tell whether a message and those inside it hold at most `most` fields.

    Of packed numbers `numbers` count nothing, and sixteen others as one field. Takes time by `most`
    and, where they have no fixed size, by `numbers`, not by the size. Raises
    `MalformedError`, also for what a parser might still accept.
    https://protobuf.dev/programming-guides/encoding
    """
    count, at = 0, 0
    end, kinds = len(content), _kinds(descriptor)
    outer: list[tuple[int, dict[int, Descriptor | int]]] = []
    while True:
        while at == end:
            if not outer:
                return count <= most
            end, kinds = outer.pop()
        count += 1
        if count > most:
            return False
        tag, at = _varint(content, at, end)
        wire_type = tag & 7
        if wire_type == _LENGTH:
            size, at = _varint(content, at, end)
            stop = at + size
            if stop > end:
                raise MalformedError
            kind = kinds.get(tag >> 3)
            if kind is None:
                at = stop
            elif isinstance(kind, int):
                packed = _packed(content, at, stop, kind, numbers + _PACKED * (most - count + 1))
                count += max(0, packed - numbers) // _PACKED
                numbers = max(0, numbers - packed)
                at = stop
            else:
                outer.append((end, kinds))
                end, kinds = stop, _kinds(kind)
        elif wire_type == _VARINT:
            _, at = _varint(content, at, end)
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
            if at > end:
                raise MalformedError
        elif wire_type not in (_START_GROUP, _END_GROUP):
            raise MalformedError


@cache
def _kinds(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """Return what a field of many bytes may hold besides text.

    It is a message, or packed numbers: their width in bytes, 0 for varints.
    """
    kinds: dict[int, Descriptor | int] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            kinds[field.number] = field.message_type
        elif field.type not in _TEXT:
            kinds[field.number] = _WIDTH.get(field.type, 0)
    return kinds


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a number of at most ten bytes and where it ends."""
    value = shift = 0
    for place in range(at, min(end, at + 10)):
        byte = content[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise MalformedError


def _packed(content: bytes, start: int, stop: int, width: int, enough: int) -> int:
    """Count packed numbers; above `enough`, their exact number does not matter."""
    if width:
        return (stop - start) // width
    if stop - start > 10 * enough:  # a varint has ten bytes at most
        return enough
    return len(content[start:stop].translate(None, _CONTINUED))
