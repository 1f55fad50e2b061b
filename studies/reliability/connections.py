"""Connections of senders that are slow, silent, or speak another language than HTTP/2."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_PATH = b"/kshot.v1.AdaptationService/Predict"


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def headers(stream: int, path: bytes = _PATH) -> bytes:
    """Return a request's HEADERS frame, without an end of the stream."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    return frame(1, 4, stream, b"".join(literal(*field) for field in fields))


def _silent(_chance: random.Random) -> bytes:
    return b""


def _noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(1, 4096))


def _http1(_chance: random.Random) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def _tls(chance: random.Random) -> bytes:
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)


def _half_preface(chance: random.Random) -> bytes:
    return PREFACE[: chance.randrange(1, len(PREFACE))]


def _greeting(_chance: random.Random) -> bytes:
    return PREFACE + EMPTY_SETTINGS


def _noise_frames(chance: random.Random) -> bytes:
    def one() -> bytes:
        content = chance.randbytes(chance.randrange(64))
        return frame(chance.randrange(16), chance.randrange(256), chance.randrange(8), content)

    return PREFACE + EMPTY_SETTINGS + b"".join(one() for _ in range(20))


def _large_frame(chance: random.Random) -> bytes:
    head = b"\xff\xff\xff" + struct.pack(">BBI", 0, 0, 1)
    return PREFACE + EMPTY_SETTINGS + head + chance.randbytes(1000)


def _calls_without_message(chance: random.Random) -> bytes:
    count = chance.randrange(1, 4)
    return PREFACE + EMPTY_SETTINGS + b"".join(headers(2 * n + 1) for n in range(count))


def _half_message(_chance: random.Random) -> bytes:
    content = b"\0" + struct.pack(">I", 2**20) + b"\x0a" * 100
    return PREFACE + EMPTY_SETTINGS + headers(1) + frame(0, 0, 1, content)


def _noise_message(chance: random.Random) -> bytes:
    content = chance.randbytes(200)
    message = b"\0" + struct.pack(">I", len(content)) + content
    return PREFACE + EMPTY_SETTINGS + headers(1) + frame(0, 1, 1, message)


def _closed_window(_chance: random.Random) -> bytes:
    """Ask for an answer that has no room to come back in."""
    settings = frame(4, 0, 0, struct.pack(">HI", 4, 0))
    call = headers(1, b"/kshot.v1.AdaptationService/GetCapabilities")
    return PREFACE + settings + call + frame(0, 1, 1, b"\0" * 5)


def _resets(chance: random.Random) -> bytes:
    """Open calls and reset each at once."""
    count = chance.randrange(10, 100)
    calls = (headers(2 * n + 1) + frame(3, 0, 2 * n + 1, b"\0\0\0\x08") for n in range(count))
    return PREFACE + EMPTY_SETTINGS + b"".join(calls)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    function.__name__.strip("_"): function
    for function in (
        _silent,
        _noise,
        _http1,
        _tls,
        _half_preface,
        _greeting,
        _noise_frames,
        _large_frame,
        _calls_without_message,
        _half_message,
        _noise_message,
        _closed_window,
        _resets,
    )
}


@contextmanager
def bad_connections(address: str, count: int, seed: int = 0) -> Iterator[int]:
    """Hold some connections of all kinds open around a block; yield how many were accepted.

    Every second one sends its bytes in two pieces; every third leaves by a reset.
    """
    chance = random.Random(seed)  # noqa: S311 -- draws bytes
    host, _, port = address.rpartition(":")
    names = list(KINDS)
    with ExitStack() as stack:
        open_ones = []
        for number in range(count):
            with suppress(OSError):  # a server may refuse, which is an answer
                found = stack.enter_context(socket.create_connection((host, int(port)), 10))
                found.settimeout(10)
                if number % 3 == 0:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                content = KINDS[names[number % len(names)]](chance)
                open_ones.append((found, content, len(content) // 2 if number % 2 else 0))
        for second in (False, True):
            for found, content, middle in open_ones:
                with suppress(OSError):
                    found.sendall(content[middle:] if second else content[:middle])
        yield len(open_ones)
