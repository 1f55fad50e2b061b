"""A file in chunks is bounded in all that it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kshot.server.errors import InvalidRequest
from kshot.server.lives.upload import LEAST_CHUNK_BYTES, UploadHeader, UploadLimits, collect
from kshot.server.request.options import TtlLimits
from kshot.server.request.violations import Violations


def collected(*chunks: bytes, seconds: float = 60.0, most: int = 10**6) -> bytes:
    async def sent() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return asyncio.run(collect(sent(), UploadLimits(most, seconds)))


def test_chunks_are_joined() -> None:
    whole, rest = bytes(LEAST_CHUNK_BYTES), b"rest"

    assert collected(whole, whole, rest) == whole + whole + rest
    assert collected(rest) == rest


@pytest.mark.parametrize(
    ("chunks", "limits", "message"),
    [
        ([], {}, "expected chunks after the header, got none"),
        ([b""], {}, "before the last, got 0"),
        ([b"ab", b"c"], {}, f"at least {LEAST_CHUNK_BYTES} bytes before the last, got 2"),
        ([bytes(20_000)] * 2, {"most": 30_000}, "a file of at most 30000 bytes, got more"),
        ([b"ab"], {"seconds": -1.0}, "expected the file within -1 s, got less"),
    ],
)
def test_other_chunks_are_refused(
    chunks: list[bytes], limits: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        collected(*chunks, **limits)


def test_the_header_is_checked() -> None:
    violations, limits = Violations(), TtlLimits(5.0, 9.0)
    UploadHeader("a" * 64, 9.0).check(limits, violations)
    assert not violations

    UploadHeader("A" * 64, 10.0).check(limits, violations)

    with pytest.raises(InvalidRequest) as caught:
        violations.check()
    assert [str(each) for each in caught.value.violations] == [
        f"header.sha256: expected 64 hexadecimal digits, got '{'A' * 39}\N{HORIZONTAL ELLIPSIS}'",
        "header.ttl: expected above 0 and at most 9 s, got 10 s",
    ]
