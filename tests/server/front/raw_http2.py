"""A client that speaks HTTP/2 by hand: it leaves out what a good client does."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACKNOWLEDGED = 1, 4, 1
_INITIAL_WINDOW = 4


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def header(name: str, value: str) -> bytes:
    """A header without compression (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


class RawClient:
    """A connection whose calls may send no message, and whose answers find a closed window."""

    def __init__(self, address: str, window: int = 0) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=90)
        settings = struct.pack(">HI", _INITIAL_WINDOW, window)
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self._next = 1
        self._seen: list[tuple[int, int, int, bytes]] = []

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType
    ) -> None:
        self._socket.close()

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def open(self, path: str, *messages: bytes, end: bool = True, **headers: str) -> int:
        """Begin a call, send messages, and return its stream; `end` says that no more will come."""
        stream, self._next = self._next, self._next + 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
            **headers,
        }
        block = b"".join(header(name, value) for name, value in fields.items())
        body = b"".join(struct.pack(">BI", 0, len(each)) + each for each in messages)
        last = END_STREAM if end else 0
        flags = END_HEADERS | (0 if body else last)
        self.send(frame(HEADERS, flags, stream, block))
        if body:
            self.send(frame(DATA, last, stream, body))
        return stream

    def ping(self) -> None:
        """Wait until the server's transport has seen all that was sent."""
        self.send(frame(PING, 0, 0, bytes(8)))
        self.wait(PING, 0, ACKNOWLEDGED)

    def _frame(self) -> tuple[int, int, int, bytes]:
        """Return the kind, flags, stream and content of the next frame; raise `EOFError`."""
        head = self._read(9)
        size = int.from_bytes(head[:3])
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        content = self._read(size)
        if kind == SETTINGS and not flags & ACKNOWLEDGED:
            self.send(frame(SETTINGS, ACKNOWLEDGED, 0))
        return kind, flags, stream, content

    def wait(self, kind: int, stream: int, flags: int = 0) -> bytes:
        """Wait for a frame of a stream with these flags; return its content."""
        position = 0
        while True:
            if position == len(self._seen):
                self._seen.append(self._frame())
            got, with_flags, of_stream, content = self._seen[position]
            if (got, of_stream) == (kind, stream) and with_flags & flags == flags:
                return content
            position += 1

    def wait_end(self, stream: int) -> bytes:
        """Wait for the end of an answer; return its last headers, compressed."""
        return self.wait(HEADERS, stream, END_STREAM)

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            part = self._socket.recv(size - len(content))
            if not part:
                raise EOFError
            content += part
        return content
