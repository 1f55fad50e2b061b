"""Mutations: of bytes, of messages field by field, of JSON, and of PNG, JPEG and WebP by parts."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUMBERS = (0, 1, -1, 2, 7, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-308, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "a", "..", "../../x", "/", "\0", "a\0", "\ud7ff", "é", "a" * 300, "%s", "{}", "\n")
_MOST_BYTES = 100_000


def bytes_like(chance: random.Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes: flip, put, cut, double, join with others; one to four times."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        kind, place = chance.randrange(7), chance.randrange(len(found) + 1)
        size = min(chance.choice((1, 2, 4, 16, 64)), len(found) - place)
        if kind == 0 and size:
            found[place] ^= 1 << chance.randrange(8)
        elif kind == 1 and size:
            found[place : place + size] = chance.randbytes(size)
        elif kind == 2:
            found[place:place] = chance.randbytes(chance.choice((1, 2, 8, 32)))
        elif kind == 3:
            del found[place : place + size]
        elif kind == 4:
            found[place:place] = found[place : place + size] * chance.choice((1, 2, 50))
        elif kind == 5 and size:
            value = chance.choice((0, 1, 127, 128, 255))
            found[place : place + size] = bytes([value]) * size
        elif others:
            other = chance.choice(others)
            found[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(found[:_MOST_BYTES])


def message_like(chance: random.Random, message: Message) -> None:
    """Change one to four fields of a message, in place: to edge values, others' types' size kept.

    What comes out is a message that parses.
    """
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change_field(chance, message)


def _change_field(chance: random.Random, message: Message) -> None:
    part: Any = message
    while True:
        field = chance.choice(part.DESCRIPTOR.fields)
        value = getattr(part, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _change_entries(chance, value)
            return
        if field.is_repeated:
            _change_items(chance, field, value)
            return
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            setattr(part, field.name, _scalar(chance, field, value))
            return
        if chance.random() < 0.1:
            part.ClearField(field.name)
            return
        value.SetInParent()
        part = value
        if not part.DESCRIPTOR.fields:
            return


def _change_items(chance: random.Random, field: FieldDescriptor, items: Any) -> None:  # noqa: ANN401 -- of any type
    kind = chance.randrange(4)
    if items and kind == 0:
        del items[chance.randrange(len(items))]
    elif items and kind == 1 and len(items) < 200:
        items.extend(list(items) * chance.choice((1, 3)))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        _change_field(chance, chance.choice(items) if items else items.add())
    elif items and kind == 2:
        place = chance.randrange(len(items))
        items[place] = _scalar(chance, field, items[place])
    else:
        items.append(_scalar(chance, field, items[0] if items else None))


def _change_entries(chance: random.Random, entries: Any) -> None:  # noqa: ANN401 -- a map of messages
    name = chance.choice([*sorted(entries), *_TEXTS])
    if name in entries and chance.random() < 0.3:
        del entries[name]
    else:
        _change_field(chance, entries[name])  # which makes it


def _scalar(chance: random.Random, field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401 -- of any type
    kind = field.type
    if kind == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if kind == FieldDescriptor.TYPE_STRING:
        return chance.choice((*_TEXTS, (value or "a") * 2, (value or "ab")[:-1]))
    if kind == FieldDescriptor.TYPE_BYTES:
        return bytes_like(chance, value or b"")
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return chance.choice(known if field.enum_type.is_closed else [*known, 99, -1, 2**31 - 1])
    if kind in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return chance.choice((*_FLOATS, chance.uniform(-2, 2)))
    small = kind in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32)
    low, high = (-(2**31), 2**31 - 1) if small else (-(2**63), 2**63 - 1)
    if kind in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64):
        low, high = 0, 2**32 - 1 if kind == FieldDescriptor.TYPE_UINT32 else 2**64 - 1
    near = int(value or 0) + chance.choice((-1, 1, 2))
    return min(max(chance.choice((*_NUMBERS, near, near, chance.randrange(100))), low), high)


def json_like(chance: random.Random, document: Any) -> Any:  # noqa: ANN401 -- JSON
    """Return a document with one to three changed values, keys or items."""
    document = json.loads(json.dumps(document))
    for _ in range(chance.choice((1, 1, 2, 3))):
        holder, key = _place(chance, document)
        if holder is None:
            continue
        kind = chance.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[chance.choice(_TEXTS)] = holder[key]
        elif kind == 2 and isinstance(holder, list) and len(holder) < 1000:
            holder.extend(holder * chance.choice((1, 3)))
        else:
            holder[key] = _json_value(chance, holder[key])
    return document


def _place(chance: random.Random, document: Any) -> tuple[Any, Any]:  # noqa: ANN401 -- JSON
    holder, key = None, None
    while isinstance(document, dict | list) and document:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        holder, key = document, chance.choice(keys)
        document = document[key]
        if chance.random() < 0.2:
            break
    return holder, key


def _json_value(chance: random.Random, value: Any) -> Any:  # noqa: ANN401 -- JSON
    near: list[Any] = []
    if isinstance(value, int | float):
        near = [value + 1, value - 1, -value, value * 2]
    elif isinstance(value, str):
        near = [value + "x", value[:-1], value.upper()]
    return chance.choice(
        [None, True, False, [], {}, [[]], {"a": 1}, *_NUMBERS, *_FLOATS[:7], *_TEXTS, *near, *near]
    )


def picture_like(chance: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Change a picture by its parts, so that decoders read past its beginning."""
    if content.startswith(b"\x89PNG"):
        return _png_like(chance, content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg_like(chance, content)
    if content.startswith(b"RIFF"):
        return _webp_like(chance, content)
    return bytes_like(chance, content, others)


def _png_like(chance: random.Random, content: bytes) -> bytes:
    """Change chunks and make their checksums fit; data is sometimes changed before compression."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    _change_parts(chance, chunks)
    if chance.random() < 0.3:
        chunks = [(kind, _recompressed(chance, kind, data)) for kind, data in chunks]

    def whole(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return content[:8] + b"".join(whole(*chunk) for chunk in chunks)


def _recompressed(chance: random.Random, kind: bytes, data: bytes) -> bytes:
    if kind != b"IDAT":
        return data
    try:
        return zlib.compress(bytes_like(chance, zlib.decompress(data)))
    except zlib.error:
        return data


def _jpeg_like(chance: random.Random, content: bytes) -> bytes:
    """Change segments: their lengths stay right."""
    segments, place = [], 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        (size,) = struct.unpack(">H", content[place + 2 : place + 4])
        segments.append((content[place : place + 2], content[place + 4 : place + 2 + size]))
        place += 2 + size
    scans = content[place:]
    _change_parts(chance, segments)
    if chance.random() < 0.3:
        scans = bytes_like(chance, scans)
    heads = (kind + struct.pack(">H", (len(data) + 2) & 0xFFFF) + data for kind, data in segments)
    return content[:2] + b"".join(heads) + scans * chance.choice((1, 1, 1, 2, 20))


def _webp_like(chance: random.Random, content: bytes) -> bytes:
    chunks, place = [], 12
    while place + 8 <= len(content):
        (size,) = struct.unpack("<I", content[place + 4 : place + 8])
        chunks.append((content[place : place + 4], content[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    _change_parts(chance, chunks)
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _change_parts(chance: random.Random, parts: list[tuple[bytes, bytes]]) -> None:
    if not parts:
        return
    place, kind = chance.randrange(len(parts)), chance.randrange(5)
    if kind == 0:
        del parts[place]
    elif kind == 1:
        parts[place:place] = [parts[place]] * chance.choice((1, 3, 200))
    elif kind == 2:
        other = chance.randrange(len(parts))
        parts[place], parts[other] = parts[other], parts[place]
    else:
        name, data = parts[place]
        parts[place] = (name, bytes_like(chance, data))
