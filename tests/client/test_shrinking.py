"""Photographs are reduced before they are sent, where the model cannot use their pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kshot.client import Client, DeadlineExceededError, InputError, UnavailableError
from kshot.client.connection.channel import Patience
from kshot.client.exchange import known_server
from kshot.client.inputs import read_images
from kshot.client.shrinking import any_large, encode_picture, shrink_arrays, shrink_file
from kshot.v1 import adaptation_pb2 as wire
from tests.patience import with_more_time

if TYPE_CHECKING:
    from conftest import FakeServicer

SIDE = 512


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 -- Pillow's
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A picture of 2400 x 1600 pixels, left half dark."""
    values = np.full((1600, 2400, 3), 200, np.uint8)
    values[:, :1200] = 30
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def jpeg(photograph: Image.Image) -> bytes:
    return encoded(photograph, "JPEG")


def test_a_jpeg_becomes_a_smaller_jpeg(jpeg: bytes) -> None:
    small = opened(shrink_file(jpeg, SIDE))

    assert (small.format, small.size) == ("JPEG", (768, 512))
    values = np.asarray(small).astype(int)
    assert abs(values[:, :300] - 30).max() < 3
    assert abs(values[:, -300:] - 200).max() < 3


def test_small_files_keep_their_bytes(jpeg: bytes) -> None:
    assert shrink_file(jpeg, 1600) is jpeg
    assert shrink_file(b"words", SIDE) == b"words"
    assert shrink_file(jpeg[:3000], SIDE) == jpeg[:3000]


def test_orientation_is_applied_when_it_is_shrunk(photograph: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: its left is at the top
    small = opened(shrink_file(encoded(photograph, "JPEG", exif=exif), SIDE))

    assert small.size == (512, 768)
    assert small.getexif().get(0x0112, 1) == 1
    assert np.asarray(small)[:300].max() < 40


def test_what_lacks_rows_keeps_its_bytes(jpeg: bytes) -> None:
    """The server refuses it; made smaller, it would be whole, and partly gray or black."""
    half = jpeg[: len(jpeg) // 2] + b"\xff\xd9"
    rows = zlib.compress(b"\0" * 1001 * 500)
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 1000, 1000, 8, 0, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        png += struct.pack(">I", len(content)) + name + content + checksum

    assert shrink_file(half, SIDE) == half
    assert shrink_file(png, SIDE) == png


def test_metadata_does_not_keep_a_file_large(jpeg: bytes) -> None:
    comment = jpeg[:2] + b"\xff\xfe\xff\xff" + bytes(65533) + jpeg[2:]

    assert shrink_file(comment, SIDE) == shrink_file(jpeg, SIDE)


def test_a_png_stays_a_png_with_its_transparency() -> None:
    values = np.zeros((1100, 1200, 4), np.uint8)
    values[:, :600] = 255
    small = opened(shrink_file(encoded(Image.fromarray(values), "PNG", compress_level=1), SIDE))

    assert (small.format, small.mode, small.size) == ("PNG", "RGBA", (559, 512))
    assert np.asarray(small)[:, 0, 3].min() == 255
    assert np.asarray(small)[:, -1, 3].max() == 0


@pytest.mark.parametrize("depth", ["16 bits", "a transparent colour"])
def test_what_cannot_be_averaged_keeps_its_bytes(depth: str) -> None:
    shades = np.zeros((600, 600), np.uint16 if depth == "16 bits" else np.uint8)
    options = {} if depth == "16 bits" else {"transparency": 0}
    content = encoded(Image.fromarray(shades), "PNG", **options)

    assert shrink_file(content, SIDE) == content


@pytest.mark.parametrize("shape", [(2, 1024, 2048), (1, 1024, 1024, 1), (1, 1024, 1536, 3)])
def test_arrays_are_reduced_by_area(shape: tuple[int, ...]) -> None:
    stripes: npt.NDArray[np.uint8] = np.zeros(shape, np.uint8)
    stripes[:, ::2] = 200
    small = shrink_arrays(stripes, SIDE)

    assert small.shape[:3] == (shape[0], 512, shape[2] // 2)
    assert np.unique(small).tolist() == [100]
    assert shrink_arrays(stripes, 1024) is stripes


def test_pictures_of_pillow_are_encoded(photograph: Image.Image, jpeg: bytes) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    exact, small, again = read_images([noise, photograph, opened(jpeg)], SIDE)

    np.testing.assert_array_equal(np.asarray(opened(bytes(exact))), np.asarray(noise))
    assert (opened(bytes(small)).format, opened(bytes(small)).size) == ("PNG", (768, 512))
    assert opened(bytes(again)).format == "JPEG"
    assert opened(encode_picture(photograph)).size == photograph.size


def test_large_images_are_found_by_their_headers(
    tmp_path: Path, jpeg: bytes, photograph: Image.Image
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:4000])

    for item in (path, str(path), jpeg, photograph, np.zeros((600, 600, 3), np.uint8)):
        assert any_large([b"", item])
    assert not any_large([tmp_path / "none.png", b"words", np.zeros((600, 600), np.float32)])
    assert not any_large(np.zeros((2, 512, 900), np.uint8))


@pytest.mark.parametrize(("model", "size"), [("photos", (768, 512)), ("nearest", (2400, 1600))])
def test_the_client_shrinks_as_the_model_allows(
    client: Client, servicer: FakeServicer, jpeg: bytes, model: str, size: tuple[int, int]
) -> None:
    """A model that picks pixels by nearest neighbour gets the bytes of the caller."""
    servicer.useful_sides = {"photos": SIDE, "nearest": 0}
    adapted = client.adapt([jpeg, b"small"], ["a", "b"], model=model)
    client.predict(adapted, [jpeg])
    client.predict(adapted.id, [jpeg])
    client.adapt_and_predict([jpeg, b"small"], [0, 1], [jpeg], model=model)
    sent = [
        images.encoded.items[0] for request in servicer.requests for images in sent_images(request)
    ]

    assert len(sent) == 5
    assert {opened(content).size for content in sent} == {size}
    assert (jpeg in sent) is (model == "nearest")


@pytest.mark.parametrize(("sides", "size"), [((SIDE, 300), (768, 512)), ((SIDE, 0), (2400, 1600))])
def test_any_model_can_see_what_is_sent_to_all(
    client: Client,
    servicer: FakeServicer,
    jpeg: bytes,
    sides: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Without the name of a model, the one that needs the most pixels decides."""
    servicer.useful_sides = dict(zip(("omniglot", "photos"), sides, strict=True))
    client.adapt([jpeg, b"small"], ["a", "b"])

    (images,) = sent_images(servicer.requests[-1])
    assert opened(images.encoded.items[0]).size == size


def test_the_server_is_asked_only_about_large_images(
    client: Client, servicer: FakeServicer
) -> None:
    client.adapt(np.zeros((2, 512, 512), np.uint8), [0, 1], model="photos")

    assert [type(request) for request in servicer.requests] == [wire.AdaptRequest]


def test_threads_may_forget_adapted_models_at_any_time(
    client: Client, servicer: FakeServicer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(dict[str, str]):
        def __setitem__(self, name: str, model: str) -> None:
            super().__setitem__(name, model)
            self.clear()  # as another thread does

    servicer.useful_sides = {"photos": SIDE}
    adapted = client.adapt([jpeg, b"small"], ["a", "b"], model="photos")
    monkeypatch.setattr(client._known, "_models", Forgetful())

    assert client.predict(adapted.id, [jpeg]).labels


def test_the_server_is_asked_once_in_a_while(
    client: Client, servicer: FakeServicer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the id of an adapted model; a model that it did not know, and a new server, count."""
    servicer.useful_sides = {"photos": SIDE}

    def asked() -> list[str]:
        names = [type(request).__name__ for request in servicer.requests]
        servicer.requests.clear()
        return [name for name in names if name.startswith("Get")]

    adapted = client.adapt([jpeg, b"small"], ["a", "b"], model="photos")
    for _ in range(2):
        client.predict(adapted.id, [jpeg])
    assert asked() == ["GetCapabilitiesRequest", "GetAdaptedModelRequest"]
    servicer.useful_sides["other"] = SIDE
    client.adapt([jpeg, b"small"], ["a", "b"], model="other")
    assert asked() == ["GetCapabilitiesRequest"]
    servicer.refuse(grpc.StatusCode.UNAVAILABLE.value[0], "gone", times=1)
    with pytest.raises(UnavailableError):  # of a call that is not tried again
        client.adapt_and_predict([jpeg, b"small"], ["a", "b"], [b"small"], model="photos")
    client.predict(adapted, [jpeg])
    assert asked() == ["GetCapabilitiesRequest"]
    monkeypatch.setattr(known_server, "_FRESH_SECONDS", -1.0)
    with Client(client.address) as other:
        for _ in range(2):
            other.adapt([jpeg, b"small"], ["a", "b"], model="photos")
    assert len(asked()) == 2


def test_versions_and_labels_of_a_model_are_known(
    client: Client, servicer: FakeServicer, jpeg: bytes
) -> None:
    servicer.useful_sides = {"omniglot": SIDE}
    for suffix in ("", "@2", "@stable"):
        client.adapt([jpeg, b"small"], ["a", "b"], model=f"omniglot{suffix}")
        client.adapt([jpeg, b"small"], ["a", "b"], model="omniglot")

    names = [type(request).__name__ for request in servicer.requests]
    assert names.count("GetCapabilitiesRequest") == 1


def test_questions_take_their_time_from_the_call(
    client: Client, servicer: FakeServicer, jpeg: bytes
) -> None:
    servicer.useful_sides = {"photos": SIDE}
    client.adapt([jpeg, b"small"], ["a", "b"], model="photos", timeout=9.0)

    assert len(servicer.remaining) == 2 and max(servicer.remaining) < 9.5
    patience = Patience.of(9.0)
    patience.spend(2.0)
    assert (patience.left, patience.timeout) == (7.0, 9.0)
    servicer.slow = True

    def outlast(seconds: float) -> None:
        servicer.requests.clear()
        with (
            Client(client.address) as other,
            pytest.raises(DeadlineExceededError, match=f"within {seconds:g} s"),
        ):
            other.adapt([jpeg, b"small"], ["a", "b"], model="photos", timeout=seconds)
        assert isinstance(servicer.requests[-1], wire.GetCapabilitiesRequest)

    with_more_time(outlast, 0.2)


def sent_images(request: object) -> list[wire.Images]:
    if isinstance(request, wire.AdaptRequest):
        return [request.support_set.images]
    if isinstance(request, wire.PredictRequest):
        return [request.queries]
    if isinstance(request, wire.AdaptAndPredictRequest):
        return [request.support_set.images, request.queries]
    return []


def test_a_callers_picture_stays_as_it_is(tmp_path: Path) -> None:
    """Pillow's drafts change a picture in place: whoever saves it later would lose it."""
    path = tmp_path / "large.jpg"
    Image.effect_noise((1600, 1200), 50).save(path)
    with Image.open(path) as picture:
        encode_picture(picture, 512)

        assert picture.size == (1600, 1200)


def test_pictures_of_16_bits_keep_their_values() -> None:
    values = np.linspace(0, 65535, 600 * 600).reshape(600, 600).astype(np.uint16)

    sent = Image.open(io.BytesIO(encode_picture(Image.fromarray(values), 512)))

    assert sent.size == (600, 600)
    assert np.array_equal(np.asarray(sent), values)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "PA", "HSV"])
def test_pictures_of_any_mode_are_encoded(mode: str) -> None:
    picture = Image.new("RGB", (5, 4), (10, 200, 30))
    picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)

    sent = Image.open(io.BytesIO(encode_picture(picture)))

    assert sent.size == (5, 4)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 20, dtype=np.float32),
        np.linspace(-1, 1, 20, dtype=np.float32),
        np.linspace(0, 255, 20, dtype=np.float32),
        np.linspace(0, 65535, 20, dtype=np.float32),
        np.arange(20, dtype=np.int32) % 17,
        np.arange(20, dtype=np.int32) - 128,
        np.arange(20, dtype=np.int32) * 13,
        np.arange(20, dtype=np.int32) * 100_000,
        np.arange(20, dtype=np.uint16) * 13,
    ],
    ids=lambda values: f"{values.dtype} to {values.max():g}",
)
def test_pictures_of_numbers_that_are_no_levels_are_refused(
    values: npt.NDArray[np.generic],
) -> None:
    picture = Image.fromarray(values.reshape(4, 5))

    with pytest.raises(InputError, match=r"image 1: expected levels from 0 to 255, got mode [IF]"):
        read_images([Image.new("L", (5, 4)), picture])


def test_a_dark_file_of_16_bits_is_taken(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 200, np.uint16)).save(tmp_path / "dark.png")

    with Image.open(tmp_path / "dark.png") as picture:
        sent = Image.open(io.BytesIO(encode_picture(picture)))

    assert np.asarray(sent).max() == 200


def test_a_picture_whose_file_is_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.effect_noise((200, 200), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])

    with Image.open(path) as picture, pytest.raises(InputError, match="image 0: this picture can"):
        read_images([picture])
