from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import (
    Bundle,
    Grayscale,
    ImageLimits,
    Ink,
    InputSpec,
    Normalize,
    Rescale,
    Resize,
    Rgb,
    decode_once,
    prepare,
)
from kshot.bundle import images as decoding
from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled, InvalidRequest
from kshot.server.request import images as images_module
from kshot.server.request.images import (
    SUPPORT_IMAGES,
    ImageRules,
    PixelBudget,
    SharedImages,
    prepare_images,
    thumbnails,
)
from kshot.server.request.inputs import EncodedImages, TensorImages
from kshot.server.request.violations import Violations


def webp(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "WEBP", lossless=True)
    return stream.getvalue()


@pytest.fixture
def rules(tiny_bundle: Bundle) -> Callable[..., ImageRules]:
    """Make rules for images of one field."""

    def make(budget: PixelBudget, field: str = "queries") -> ImageRules:
        return ImageRules(field, 1000, budget, tiny_bundle.manifest.input)

    return make


def found(violations: Violations) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        violations.check()
    return {item.field: item.description for item in caught.value.violations}


def test_pixels_add_up_before_anything_is_decoded(
    rules: Callable[..., ImageRules], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_call("Predict")
    bombs = EncodedImages((webp(1000, 1000),) * 100)
    monkeypatch.setattr(images_module, "decode_once", lambda *_: pytest.fail("it was decoded"))
    violations = Violations()

    prepared = prepare_images(bombs, rules(PixelBudget(10**6, 10**8 - 1)), violations)

    assert len(prepared) == 0
    (description,) = found(violations).values()
    assert "got 100000000 in" in description
    assert "expected at most 99999999 pixels" in description


def test_all_images_of_a_request_share_its_pixels(rules: Callable[..., ImageRules]) -> None:
    begin_call("AdaptAndPredict")
    budget = PixelBudget(100, 250)
    tensor = TensorImages("UINT8", (2, 10, 10), bytes(200))
    violations = Violations()

    assert len(prepare_images(tensor, rules(budget, "support_set.images"), violations)) == 2
    assert len(prepare_images(tensor, rules(budget), violations)) == 0

    assert set(found(violations)) == {"queries.tensor.shape"}


def test_one_image_has_a_cap_of_its_own(rules: Callable[..., ImageRules]) -> None:
    begin_call("Predict")
    sent = EncodedImages((webp(10, 10), webp(10, 11), b"no image"))
    violations = Violations()

    prepare_images(sent, rules(PixelBudget(100, 1000)), violations)

    assert list(found(violations)) == ["queries.encoded.items[1]", "queries.encoded.items[2]"]


def test_images_one_by_one_are_those_together(
    rules: Callable[..., ImageRules], tiny_bundle: Bundle
) -> None:
    begin_call("Predict")
    sent = [webp(size, 2 * size) for size in range(1, 9)]

    prepared = prepare_images(
        EncodedImages(tuple(sent)), rules(PixelBudget(10**6, 10**6)), Violations()
    )

    np.testing.assert_array_equal(prepared, images_module.prepare(sent, tiny_bundle.manifest.input))


def test_large_images_are_decoded_one_at_a_time(
    rules: Callable[..., ImageRules], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call waits for its turn, small images do not, and one whose caller has gone stops."""
    monkeypatch.setattr(images_module, "_LARGE_PIXELS", 50)
    monkeypatch.setattr(images_module, "_PATIENCE_SECONDS", 0.001)
    call = begin_call("Predict")
    large, small = EncodedImages((webp(10, 10),) * 2), EncodedImages((webp(5, 5),))

    def ask(images: EncodedImages) -> int:
        return len(prepare_images(images, rules(PixelBudget(1000, 1000)), Violations()))

    assert ask(large) == 2
    with images_module._LARGE_IMAGES:
        assert ask(small) == 1
        turn = images_module._turn(100)
        call.ended = True
        with pytest.raises(CallCancelled):
            turn.__enter__()
    assert not images_module._LARGE_IMAGES.locked()


def test_decoding_ends_with_its_call(
    rules: Callable[..., ImageRules], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = begin_call("Predict")
    decoded: list[object] = []

    def decode(data: bytes, limits: ImageLimits, sides: set[int]) -> object:
        decoded.append(data)
        call.ended = True
        return decode_once(data, limits, sides)

    monkeypatch.setattr(images_module, "decode_once", decode)

    with pytest.raises(CallCancelled):
        prepare_images(EncodedImages((webp(4, 4),) * 3), rules(PixelBudget(100, 100)), Violations())
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("images", "violations"),
    [
        (TensorImages("FP32", (2, 5), bytes(40)), {}),
        (
            TensorImages("FP32", (2, 4), bytes(32)),
            {"queries.tensor": "expected float32 shape (n, 5), got (2, 4)"},
        ),
        (
            TensorImages("FP32", (10,), bytes(40)),
            {"queries.tensor.shape": "expected (n, 5), got (10)"},
        ),
        (
            TensorImages("UINT8", (2, 5), bytes(10)),
            {"queries.tensor.datatype": "expected FP32, vectors (n, 5), got UINT8"},
        ),
        (
            EncodedImages((webp(2, 2),)),
            {"queries.encoded": "expected FP32 vectors (n, 5) as `tensor`, got images"},
        ),
    ],
)
def test_vectors_come_as_numbers(
    images: TensorImages | EncodedImages, violations: dict[str, str]
) -> None:
    begin_call("Predict")
    noted = Violations()
    rules = ImageRules("queries", 10, PixelBudget(1, 1), InputSpec((5, 1, 1), ()))

    prepared = prepare_images(images, rules, noted)

    assert prepared.shape == ((0 if violations else 2), 5, 1, 1)
    if violations:
        assert found(noted) == violations


def picture(side: int, kind: str, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_models_share_what_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets what it gets alone; a JPEG is decoded at two sizes if one model takes each pixel.

    A size that two models share is decoded once, and inputs that two share are made once.
    """
    exact = InputSpec((1, 8, 8), (Grayscale(), Resize(8, 8, "nearest"), Rescale(1 / 255)))
    ink = InputSpec((1, 8, 8), (Grayscale(), Ink(0.1), Resize(8, 8, "box"), Rescale(1 / 255)))
    colour = InputSpec(
        (3, 8, 8), (Rgb(), Resize(8, 8, "box"), Normalize((127.0,) * 3, (128.0,) * 3))
    )
    files = (picture(1100, "JPEG"), picture(30, "PNG"), picture(40, "JPEG"))
    alone = [prepare(files, spec) for spec in (exact, ink, colour)]
    loaded, opaque = list[object](), decoding._opaque
    monkeypatch.setattr(
        decoding, "_opaque", lambda image: (loaded.append(image.size), opaque(image))[1]
    )
    begin_call("Adapt")
    shared = SharedImages((exact, ink, colour, colour))

    prepared = [
        prepare_images(
            EncodedImages(files),
            ImageRules(SUPPORT_IMAGES, 10, PixelBudget(10**7, 10**7, shared), spec),
            Violations(),
        )
        for spec in shared.specs
    ]

    for got, expected in zip(prepared, alone, strict=False):
        np.testing.assert_array_equal(got, expected)
    assert prepared[2] is prepared[3]
    assert sorted(loaded) == [(30, 30), (40, 40), (550, 550), (1100, 1100)]
    small = thumbnails(EncodedImages(files), shared, SUPPORT_IMAGES)
    assert small is not None and small.shape == (3, 3, 64, 64)


def test_masks_of_zero_and_one_are_refused_as_files_too(rules: Callable[..., ImageRules]) -> None:
    """Pictures of one colour may be there; one with more levels tells that all are pictures."""
    begin_call("Predict")

    def png(*levels: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.array([levels], np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    for files, refused in (
        ((png(0, 0), png(0, 1)), True),
        ((png(0, 1), png(0, 2)), False),
        ((png(1, 1), png(0, 0)), False),
    ):
        violations = Violations()
        prepare_images(EncodedImages(files), rules(PixelBudget(100, 100)), violations)
        assert bool(violations) is refused
        if refused:
            assert found(violations) == {
                "queries.encoded": "expected pixels from 0 to 255, got only 0 and 1; multiply by "
                "255"
            }
