"""Files are decoded in turn, as long as their call lasts."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from kshot.bundle import Grayscale, ImageError, ImageLimits, InputSpec, Levels, Rescale, Resize
from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled
from kshot.server.request.decoders import Decoders
from kshot.server.request.decoding import claimed_pixels, decode_files, survey_files
from kshot.server.request.fitted_file import FileJob, FittedFile

LIMITS = ImageLimits(max_pixels=1600)
SPEC = InputSpec((1, 4, 4), (Grayscale(), Resize(4, 4, "nearest"), Rescale(1 / 255)))


def webp(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def test_claims_are_read_from_headers() -> None:
    begin_call("Predict")

    surveys = survey_files((webp(10), b"words", webp(41), webp(40)), LIMITS)

    assert claimed_pixels(surveys, 0) == 100 + 1600


def test_all_problems_are_told() -> None:
    begin_call("Predict")
    items = (b"words", webp(10), webp(41), b"")

    with pytest.raises(ImageError) as caught:
        decode_files(items, survey_files(items, LIMITS), [SPEC], Decoders())

    assert [problem.index for problem in caught.value.problems] == [0, 2, 3]


def test_reading_headers_ends_with_its_call() -> None:
    begin_call("Predict").ended = True

    with pytest.raises(CallCancelled):
        survey_files((webp(4),), LIMITS)


def test_decoding_ends_with_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    call = begin_call("Predict")
    decoded: list[object] = []
    fit = Decoders.fit

    def fit_once(self: Decoders, job: FileJob, levels: Levels) -> FittedFile:
        decoded.append(job)
        call.ended = True
        return fit(self, job, levels)

    monkeypatch.setattr(Decoders, "fit", fit_once)
    items = (webp(4),) * 3
    surveys = survey_files(items, LIMITS)

    with pytest.raises(CallCancelled):
        decode_files(items, surveys, [SPEC], Decoders())
    assert len(decoded) == 1
