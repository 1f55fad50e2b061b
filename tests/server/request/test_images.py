from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import Bundle, InputSpec
from kshot.server.call_context import begin_call
from kshot.server.errors import CallCancelled, InvalidRequest
from kshot.server.request import images as images_module
from kshot.server.request.images import ImageRules, PixelBudget, prepare_images
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
    monkeypatch.setattr(images_module, "pixels", lambda *_: pytest.fail("it was decoded"))
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
    chosen = rules(PixelBudget(1000, 1000))

    assert len(prepare_images(large, chosen, Violations())) == 2
    with images_module._LARGE_IMAGES:
        assert len(prepare_images(small, chosen, Violations())) == 1
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

    def decode(*arguments: object) -> object:
        decoded.append(arguments)
        call.ended = True
        return np.zeros((1, 1, 4, 4), np.uint8)

    monkeypatch.setattr(images_module, "pixels", decode)

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
