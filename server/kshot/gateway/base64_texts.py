"""The base64 texts of a JSON document: out of it before it is parsed, into its message after.

Parsed with the document, each would be there five times: as bytes, text, padded, translated and
decoded.
"""

from __future__ import annotations

import json
import re
import secrets
from array import array
from base64 import b64encode
from binascii import Error, a2b_base64
from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# A whole text of at least 64 characters, perhaps in lines. No quote ends it but its own, so what is
# put in its place stands where it stood.
_LONG = re.compile(rb'(?<!\\)"(?=[^"\\]{64})((?:[A-Za-z0-9+/_-]++(?:\\[nr])*+)++=?=?(?:\\[nr])*+)"')
_MARK_BYTES, _INDEX_BYTES = 18, 6  # multiples of three: no padding
_MARK_LENGTH = (_MARK_BYTES + _INDEX_BYTES) // 3 * 4
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_BYTES, _TEXT = FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING


class Base64Texts:
    """The long base64 texts of `content`; `rest` is the document with a mark for each."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content
        self._spans = array("Q")
        self._mark = secrets.token_bytes(_MARK_BYTES)  # nobody can send one
        self.rest = _LONG.sub(self._take, content)

    def put_into(self, message: Message) -> None:
        """Put each text in the place of its mark, decoded in fields of bytes.

        Raises `ValueError`, which names the field, where a text is no base64.
        """
        if self._spans:
            self._fill(message, "")

    def hide_marks(self, text: str) -> str:
        """Return what an error says, with the length of a text instead of its mark."""
        begin = re.escape(b64encode(self._mark).decode())
        return re.sub(f"{begin}.{{8}}", self._length, text)

    def _take(self, match: re.Match[bytes]) -> bytes:
        index = len(self._spans) // 2
        self._spans.extend(match.span(1))
        return b'"%b"' % b64encode(self._mark + index.to_bytes(_INDEX_BYTES))

    def _fill(self, message: Message, path: str) -> None:
        for field, value in message.ListFields():
            place = f"{path}{field.name}"
            if field.type in (_BYTES, _TEXT):
                for key, mark in enumerate(value) if field.is_repeated else ((None, value),):
                    where = place if key is None else f"{place}[{key}]"
                    if (content := self._of(mark, where)) is None:
                        continue
                    if key is None:
                        setattr(message, field.name, content)
                    else:
                        value[key] = content
            elif field.message_type is not None:
                for where, part in _parts(field, value, place):
                    self._fill(part, f"{where}.")

    def _of(self, mark: bytes | str, where: str) -> bytes | str | None:
        """Return what belongs into a field with this content; None if it is no mark."""
        if isinstance(mark, bytes):
            if not mark.startswith(self._mark):
                return None
            start, end = self._span(mark)
            try:
                return self._decode(start, end)
            except Error as error:
                raise ValueError(f"{where}: expected base64: {error}") from error
        if len(mark) != _MARK_LENGTH or not (plain := _plain(mark)).startswith(self._mark):
            return None
        start, end = self._span(plain)
        text: str = json.loads(self._content[start - 1 : end + 1])
        return text

    def _decode(self, start: int, end: int) -> bytes:
        """Decode as the JSON of protobuf has it: of both alphabets, padded or not."""
        content = self._content
        view: memoryview | bytes = memoryview(content)[start:end]
        if content.find(b"\\", start, end) >= 0:
            view = bytes(view).replace(b"\\n", b"").replace(b"\\r", b"")
        if content.find(b"-", start, end) >= 0 or content.find(b"_", start, end) >= 0:
            view = bytes(view).translate(_URL_SAFE)
        whole = len(view) - len(view) % 4
        decoded = a2b_base64(view[:whole])
        if whole < len(view):
            decoded += a2b_base64(bytes(view[whole:]) + b"==")
        return decoded

    def _span(self, mark: bytes) -> tuple[int, int]:
        index = int.from_bytes(mark[_MARK_BYTES:])
        return self._spans[2 * index], self._spans[2 * index + 1]

    def _length(self, match: re.Match[str]) -> str:
        start, end = self._span(_plain(match[0]))
        return f"{end - start} characters"


def _parts(field: FieldDescriptor, value: Message, place: str) -> Iterator[tuple[str, Message]]:
    """Yield the messages in a field and where they are."""
    if not field.is_repeated:
        yield place, value
        return
    for index, part in enumerate(value):  # type: ignore[arg-type, var-annotated] # of messages
        yield f"{place}[{index}]", part


def _plain(mark: str) -> bytes:
    try:
        return a2b_base64(mark)
    except ValueError:  # it is not even ASCII
        return b""
