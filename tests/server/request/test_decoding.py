"""Files are decoded in turn, as long as their call lasts."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from PIL import Image

from kshot.bundle import Grayscale, ImageLimits, InputSpec, Rescale, Resize, decode_once
from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled
from kshot.server.request import decoding
from kshot.server.request.decoding import claimed_pixels, decode_files

LIMITS = ImageLimits(max_pixels=1000)
SPEC = InputSpec((1, 4, 4), (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 255)))


def webp(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def test_claims_are_read_from_headers() -> None:
    begin_call("Predict")

    assert claimed_pixels((webp(10), b"words", webp(40)), LIMITS, 0) == [100, 0, 0]


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for its turn, small images do not, and one whose caller has gone stops."""
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 50)
    monkeypatch.setattr(decoding, "_PATIENCE_SECONDS", 0.001)
    call = begin_call("Predict")

    def ask(*files: bytes) -> int:
        claimed = claimed_pixels(files, LIMITS, 0)
        return len(decode_files(files, claimed, LIMITS, [SPEC]).prepared[SPEC])

    assert ask(webp(10), webp(10)) == 2
    with decoding._LARGE_IMAGES:
        assert ask(webp(5)) == 1
        turn = decoding._turn(100)
        call.ended = True
        with pytest.raises(CallCancelled):
            turn.__enter__()
    assert not decoding._LARGE_IMAGES.locked()


def test_decoding_ends_with_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    call = begin_call("Predict")
    decoded: list[object] = []

    def decode(data: bytes, limits: ImageLimits, sides: Iterable[int]) -> object:
        decoded.append(data)
        call.ended = True
        return decode_once(data, limits, sides)

    monkeypatch.setattr(decoding, "decode_once", decode)

    with pytest.raises(CallCancelled):
        decode_files((webp(4),) * 3, (16,) * 3, LIMITS, [SPEC])
    assert len(decoded) == 1
