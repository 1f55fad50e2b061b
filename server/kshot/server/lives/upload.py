"""A file that a caller sends in chunks: bounded in bytes, chunks and time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kshot.server.errors import InvalidRequest
from kshot.server.request.options import TtlLimits
from kshot.server.request.violations import Violations, plain_seconds, shorten

# Chunks other than the last have so many bytes at least: each costs as much as a small call.
LEAST_CHUNK_BYTES = 2**14
# The slowest upload that is waited for, behind the time of one message.
_SLOWEST_BYTES = 250_000
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class UploadHeader:
    """What a caller says of a file: its SHA-256 (hex), and how long to keep what is made of it.

    Without a `ttl`, in seconds, it is the server's default.
    """

    sha256: str
    ttl: float | None = None

    def check(self, limits: TtlLimits, violations: Violations) -> None:
        """Note what is invalid."""
        if not _DIGEST.fullmatch(self.sha256):
            got = shorten(self.sha256, 40)
            violations.add("header.sha256", f"expected 64 hexadecimal digits, got {got!r}")
        if self.ttl is not None and not 0 < self.ttl <= limits.greatest:
            expected = f"expected above 0 and at most {plain_seconds(limits.greatest)}"
            violations.add("header.ttl", f"{expected}, got {plain_seconds(self.ttl)}")


@dataclass(frozen=True)
class UploadLimits:
    """The most bytes of a file, and the most seconds of one chunk."""

    max_bytes: int
    chunk_seconds: float


async def collect(chunks: AsyncIterator[bytes], limits: UploadLimits) -> bytearray:
    """Return the chunks as one; raise `InvalidRequest` for too many, too small or too slow ones."""
    clock = asyncio.get_running_loop().time
    content, last, began = bytearray(), LEAST_CHUNK_BYTES, clock()
    async for chunk in chunks:
        if last < LEAST_CHUNK_BYTES or not chunk:
            expected = f"expected chunks of at least {LEAST_CHUNK_BYTES} bytes before the last"
            raise InvalidRequest.about("chunk", f"{expected}, got {last if chunk else 0}")
        last = len(chunk)
        if len(content) + last > limits.max_bytes:
            expected = f"expected a file of at most {limits.max_bytes} bytes"
            raise InvalidRequest.about("chunk", f"{expected}, got more")
        content += chunk
        seconds = limits.chunk_seconds + len(content) / _SLOWEST_BYTES
        if clock() - began > seconds:
            raise InvalidRequest.about(
                "chunk", f"expected the file within {seconds:.0f} s, got less"
            )
    if not content:
        raise InvalidRequest.about("chunk", "expected chunks after the header, got none")
    return content
