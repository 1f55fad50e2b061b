from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from kshot.server.limits.message_scan import MalformedError, holds_at_most
from kshot.v1 import adaptation_pb2 as wire

ADAPT = wire.AdaptRequest.DESCRIPTOR
MOST = 1000


def support(**fields: object) -> bytes:
    return wire.AdaptRequest(support_set=wire.SupportSet(**fields)).SerializeToString()  # type: ignore[arg-type]


def images(**fields: object) -> bytes:
    return support(images=wire.Images(**fields))  # type: ignore[arg-type]


def wrapped(inner: bytes) -> bytes:
    """Put bytes into the field of an images message, in that of a support set."""
    for tag in (b"\x0a", b"\x12"):
        length = wire.Tensor(data=inner).SerializeToString()[1 : -len(inner) or None]
        inner = tag + length + inner
    return inner


FITTING = {
    "items": images(encoded=wire.EncodedImages(items=[b"x" * 300] * 900)),
    "labels": support(class_indices=[3] * 15_000),
    "a tensor": images(tensor=wire.Tensor(shape=[9, 1, 28, 28], data=b"x" * 10**6)),
    "nothing": b"",
}
TOO_MUCH = {
    "items": images(encoded=wire.EncodedImages(items=[b""] * 1100)),
    "names": support(class_names=[""] * 1100),
    "labels": support(class_indices=[3] * 17_000),
    "labels of ten bytes": support(class_indices=[-1] * 17_000),
    "labels one by one": b"\x12" + b"\x98\x11" + b"\x10\x01" * 1100,
    "axes": images(tensor=wire.Tensor(shape=[1] * 17_000)),
    "unknown fields": b"\xf8\x01\x01" * 1100,
    "unknown groups": b"\xfb\x01\xfc\x01" * 600,
    "nested groups": b"\xfb\x01" * 1100,
    "one message again and again": b"\x12\x00" * 1100,
    "two contents in turn": wrapped(b"\x0a\x00\x12\x00" * 600),
    "items before garbage": images(encoded=wire.EncodedImages(items=[b""] * 1100)) + b"\xff",
}
BROKEN = {
    "a tag that does not end": b"\xff",
    "a length beyond the end": b"\x0a\x7f",
    "an endless varint": b"\x08" + b"\xff" * 11,
    "an inner length beyond the message": b"\x12\x02\x0a\x05",
    "a cut number": b"\x09\x00",
    "an unknown kind": b"\x0f",
}


@pytest.mark.parametrize("name", FITTING)
def test_what_fits(name: str) -> None:
    assert holds_at_most(FITTING[name], ADAPT, MOST)


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_is_too_much(name: str) -> None:
    assert not holds_at_most(TOO_MUCH[name], ADAPT, MOST)


def test_packed_numbers_may_be_free() -> None:
    """Sixteen of those beyond count as a field; numbers in several pieces count together."""
    labels = FITTING["labels"]

    for content, fits in (
        (labels, True),
        (labels + labels, True),
        (labels + labels + labels, False),
        (TOO_MUCH["labels of ten bytes"], True),
        (TOO_MUCH["labels one by one"], False),
    ):
        assert holds_at_most(content, ADAPT, MOST, numbers=20_000) is fits


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_message(name: str) -> None:
    with pytest.raises(MalformedError):
        holds_at_most(BROKEN[name], ADAPT, MOST)
    with pytest.raises(DecodeError):
        wire.AdaptRequest.FromString(BROKEN[name])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_what_is_counted_parses_or_is_refused(content: bytes) -> None:
    """No bytes make the count fail in another way."""
    try:
        assert holds_at_most(content, ADAPT, MOST)
    except MalformedError:
        return
