from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kshot.bundle import Bundle
from kshot.server.call_context import begin_call, current_call
from kshot.server.errors import DeadlineExceeded
from kshot.server.predict import encodings as encodings_module
from kshot.server.predict.crops import cut, draw_windows
from kshot.server.predict.encoder import Encoder
from kshot.server.predict.encodings import Encodings
from kshot.server.predict.runtime import Runtime
from kshot.server.request.inputs import EncodedImages, TensorImages
from kshot.server.workers import Workers

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Watched(Encoder):
    """An encoder that notes the sizes of its runs, and waits where a test says so."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, Runtime())
        self.run_sizes: list[int] = []
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def encode(self, images: Floats) -> Floats:
        self.run_sizes.append(len(images))
        self.started.set()
        assert self.go_on.wait(60)
        return super().encode(images)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings_module.os, "cpu_count", lambda: 1)


@pytest.fixture
def encoder(encoder_bundle: Bundle) -> Watched:
    return Watched(encoder_bundle)


def pictures(count: int) -> Floats:
    return np.random.default_rng(count).random((count, 1, 8, 8), np.float32)


def encoded(images: Floats) -> Floats:
    return images.reshape(-1, 1, 4, 2, 4, 2).mean(axis=(3, 5))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_many_images_go_in_several_runs(encoder: Watched) -> None:
    async def main() -> None:
        workers = Workers()
        begin_call("Adapt")
        images = pictures(21)
        np.testing.assert_allclose(
            await Encodings(workers).encode(encoder, images), encoded(images), atol=1e-6
        )
        assert current_call().seconds["compute"] > 0
        await workers.close()

    run(main())

    assert encoder.run_sizes == [8, 8, 5]


def test_callers_that_wait_share_a_run(encoder: Watched) -> None:
    """A large support set lets others in after each of its runs."""

    async def main() -> None:
        workers = Workers()
        shared = Encodings(workers)

        async def call(count: int) -> None:
            begin_call("Predict")
            images = pictures(count)
            got = await shared.encode(encoder, images)
            np.testing.assert_allclose(got, encoded(images), atol=1e-6)

        encoder.go_on.clear()
        large = asyncio.create_task(call(12))
        await asyncio.to_thread(encoder.started.wait, 10)
        small = [asyncio.create_task(call(count)) for count in (1, 2, 3)]
        await asyncio.sleep(0)  # lets them begin
        encoder.go_on.set()
        await asyncio.gather(large, *small)
        await workers.close()

    run(main())

    assert encoder.run_sizes == [8, 6, 4]


def test_a_call_without_time_stops_between_runs(encoder: Watched) -> None:
    async def main() -> None:
        workers = Workers()
        begin_call("Adapt", remaining=0.0)
        with pytest.raises(DeadlineExceeded):
            await Encodings(workers).encode(encoder, pictures(40))
        await workers.close()

    run(main())

    assert encoder.run_sizes == []


def test_files_of_small_pictures_are_prepared_where_they_are_encoded(encoder: Watched) -> None:
    """A GPU would wait for them."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    few, many = (EncodedImages((stream.getvalue(),) * count) for count in (8, 9))
    workers = Workers()

    assert Encodings(workers).takes(encoder, few)
    assert not Encodings(workers).takes(encoder, many)
    assert not Encodings(workers, on_gpu=True).takes(encoder, few)
    assert Encodings(workers, on_gpu=True).takes(
        encoder, TensorImages("UINT8", (64, 8, 8), b"0" * 4096)
    )


def test_maps_of_crops_go_in_several_runs(tail_bundle: Bundle) -> None:
    """Each picture has its own windows in every crop, and the seed decides them."""
    made = Encoder(tail_bundle, Runtime())
    assert made.maps is not None
    maps, sizes = made.maps, []
    plain = maps.of
    images = np.random.default_rng(0).random((5, 3, 8, 8), np.float32)

    def of(given: Floats) -> Floats:
        sizes.append(len(given))
        return plain(given)

    async def main(seed: int) -> Floats:
        workers = Workers()
        begin_call("Adapt")
        found = await Encodings(workers).crop_maps(maps, images, 2, seed)
        assert current_call().seconds["compute"] > 0
        await workers.close()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "of", of)
        found = asyncio.run(main(seed=4))

    windows = draw_windows(10, (3, 8, 8), seed=4)
    wanted = [plain(cut(images, windows[start : start + 5])) for start in (0, 5)]
    assert sorted(sizes) == [2, 8]  # threads note theirs in any order
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found, asyncio.run(main(seed=4)))
    assert not np.array_equal(found, asyncio.run(main(seed=5)))
