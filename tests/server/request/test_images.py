from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import (
    Bundle,
    Grayscale,
    Ink,
    InputSpec,
    Normalize,
    Rescale,
    Resize,
    Rgb,
    prepare,
)
from kshot.bundle import images as decoding
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import InvalidRequest
from kshot.server.request import fitted_file
from kshot.server.request import images as images_module
from kshot.server.request.images import (
    QUERIES,
    SUPPORT_IMAGES,
    ImageRules,
    PixelBudget,
    SharedImages,
    believed,
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
    monkeypatch.setattr(fitted_file, "decode_once", lambda *_: pytest.fail("it was decoded"))
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
    loaded, opaque = list[object](), decoding.opaque
    monkeypatch.setattr(
        decoding,
        "opaque",
        lambda image, *how: (loaded.append(image.size), opaque(image, *how))[1],
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


def png(*levels: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array([levels], np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("files", "bits"),
    [
        ((png(0, 0), png(0, 1)), True),
        ((png(0, 1), png(0, 2)), False),
        ((png(1, 1), png(0, 0)), False),
    ],
)
def test_files_of_zero_and_one_are_refused_to_learn_from(
    rules: Callable[..., ImageRules], files: tuple[bytes, ...], bits: bool
) -> None:
    """Pictures of one colour may be there; one with more levels tells that all are pictures.

    A query may come from a camera that is covered: the answer has a warning.
    """
    expected = "expected pixels from 0 to 255, got only 0 and 1; multiply by 255"
    begin_call("Predict")
    of_support, of_queries = Violations(), Violations()

    prepare_images(EncodedImages(files), rules(PixelBudget(100, 100), SUPPORT_IMAGES), of_support)
    queries = prepare_images(EncodedImages(files), rules(PixelBudget(100, 100)), of_queries)

    assert bool(of_support) is bits
    if bits:
        assert found(of_support) == {"support_set.images.encoded": expected}
    assert len(queries) == 2 and not of_queries
    warnings = current_call().query_warnings
    assert [text.partition(",")[0] for text in warnings] == (
        ["queries: all pixels are 0 or 1 of 255"] * bits
    )


@pytest.mark.parametrize("field", [SUPPORT_IMAGES, QUERIES])
def test_arrays_of_zero_and_one_are_refused(rules: Callable[..., ImageRules], field: str) -> None:
    """Numbers come from programs, where these are booleans."""
    begin_call("Predict")
    violations = Violations()

    prepare_images(
        TensorImages("UINT8", (2, 1, 2), bytes([0, 0, 0, 1])),
        rules(PixelBudget(100, 100), field),
        violations,
    )

    assert list(found(violations)) == [f"{field}.tensor"]


def test_a_sample_of_pictures_may_have_only_zero_and_one(tiny_bundle: Bundle) -> None:
    """Every other one of 32 is looked at; the others told that all are pictures."""
    pixels = np.zeros((32, 4, 4), np.uint8)
    pixels[::2, 0], pixels[1::2, 0] = 1, 255
    shared = SharedImages((tiny_bundle.manifest.input,))

    small = thumbnails(
        TensorImages("UINT8", pixels.shape, pixels.tobytes()), shared, SUPPORT_IMAGES
    )

    assert small is not None and small.shape == (16, 3, 64, 64)


GRAY = InputSpec((1, 8, 8), (Grayscale(), Resize(8, 8, "box"), Rescale(1 / 255)))
COLOUR = InputSpec((3, 8, 8), (Rgb(), Resize(8, 8, "box"), Normalize((127.0,) * 3, (128.0,) * 3)))


@pytest.mark.parametrize(
    ("max_counts", "max_request", "made"),
    [
        ({}, 10**7, {GRAY, COLOUR}),
        ({(SUPPORT_IMAGES, GRAY): 1}, 10**7, {COLOUR}),
        ({(QUERIES, GRAY): 1}, 10**7, {GRAY, COLOUR}),
        ({}, 1100 * 1100, {COLOUR}),
    ],
)
def test_nothing_is_decoded_for_models_whose_limits_the_files_pass(
    max_counts: dict[tuple[str, InputSpec], int], max_request: int, made: set[InputSpec]
) -> None:
    """`GRAY` takes each pixel; for `COLOUR` a JPEG is decoded at half its size."""
    begin_call("Adapt")
    shared = SharedImages((COLOUR, GRAY), max_counts)
    files = EncodedImages((picture(1100, "JPEG"), picture(40, "JPEG")))
    rules = ImageRules(SUPPORT_IMAGES, 10, PixelBudget(10**7, max_request, shared), COLOUR)

    assert len(prepare_images(files, rules, Violations())) == 2

    assert shared.prepared.keys() == {(SUPPORT_IMAGES, spec) for spec in made}


@pytest.mark.parametrize("field", [SUPPORT_IMAGES, QUERIES])
def test_numbers_that_look_unscaled_are_told(field: str) -> None:
    begin_call("AdaptAndPredict")
    values = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    sent = TensorImages("FP32", values.shape, values.tobytes())
    rules = ImageRules(field, 10, PixelBudget(1, 1), COLOUR)

    for _ in range(2):
        assert len(prepare_images(sent, rules, Violations())) == 2

    call = current_call()
    told, others = call.support_warnings, call.query_warnings
    if field == QUERIES:
        told, others = others, told
    assert [text.partition(", ")[0] for text in told] == [f"{field}: all values are from 0 to 1"]
    assert others == []


def test_files_of_all_fields_count_for_each_model() -> None:
    """The support set alone is within the limits of both, and the queries alone too."""
    begin_call("AdaptAndPredict")
    shared = SharedImages((COLOUR, GRAY))
    budget = PixelBudget(10**7, 2 * 1100 * 1100 - 1, shared)
    files = EncodedImages((picture(1100, "JPEG"),))

    for field in (SUPPORT_IMAGES, QUERIES):
        prepare_images(files, ImageRules(field, 10, budget, COLOUR), Violations())

    assert shared.prepared.keys() == {
        (SUPPORT_IMAGES, GRAY),
        (SUPPORT_IMAGES, COLOUR),
        (QUERIES, COLOUR),
    }


@pytest.mark.parametrize(
    ("images", "taken"),
    [
        (None, False),
        (EncodedImages((b"x",) * 2), True),
        (EncodedImages((b"x",) * 3), False),
        (EncodedImages(()), False),
        (TensorImages("UINT8", (2, 3, 3), bytes(18)), True),
        (TensorImages("UINT8", (2**40, 28, 28), b""), False),
        (TensorImages("UINT8", (2, 3, 3), bytes(17)), False),
        (TensorImages("UINT8", (2, 0, 0), b""), False),
        (TensorImages("FP32", (2, 3), bytes(24)), True),
        (TensorImages("FP64", (2, 3), bytes(48)), False),
        (TensorImages("UINT8", (), b""), False),
    ],
)
def test_numbers_that_will_be_refused_are_not_believed(
    images: TensorImages | EncodedImages | None, taken: bool
) -> None:
    assert believed(images, 2) is (images if taken else None)
