"""The images of all calls on their way through encoders: those that wait run together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from kshot.server.call_context import current_call
from kshot.server.predict.batches import (
    Batches,
    Request,
    quick_to_decode,
    quick_to_prepare,
)
from kshot.server.predict.crops import cut, draw_windows
from kshot.server.predict.encoder import Encoder, Maps
from kshot.server.predict.mac_count import images_of_part
from kshot.server.request.images import image_count
from kshot.server.request.inputs import Images
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Result = TypeVar("Result")

# The images of one run. On one core an image takes as long in a run of 8 as alone, and a fifth
# longer in one of 16, which does not fit into the caches; others come in after each run. So those
# of large encoders are fewer.
MAX_CPU_IMAGES = 8
MAX_GPU_IMAGES = 64


class Encodings:
    """Encodes support sets and queries of all adapted models; for one event loop.

    An encoder runs on each core beside the others, up to `most_images` at a time. Images that
    arrive while it is busy share the next run, whichever adapted models they are for.
    """

    def __init__(self, workers: Workers, *, on_gpu: bool = False) -> None:
        self._lanes = 1 if on_gpu else os.cpu_count() or 1
        self._on_gpu = on_gpu
        self._batches: Batches[Any] = Batches(workers, lanes=self._lanes)

    def most_images(self, encoder: Encoder | Maps) -> int:
        """Return how many images of an encoder run at once."""
        return MAX_GPU_IMAGES if self._on_gpu else images_of_part(encoder.mac_count, MAX_CPU_IMAGES)

    def takes(self, encoder: Encoder, images: Images | None) -> bool:
        """Tell whether `encode_few` may prepare these images: few, and nobody waits long for it.

        A GPU waits for no file: threads decode these before.
        """
        few = (image_count(images) or 0) <= self.most_images(encoder)
        return few and (quick_to_prepare(images) or (not self._on_gpu and quick_to_decode(images)))

    async def encode(self, encoder: Encoder, images: Floats) -> Floats:
        """Map prepared `(n, *input.shape)` to `(n, *output_shape)`.

        Many images go in several runs, on all cores; other calls come in between.
        """
        if len(images) <= self.most_images(encoder):
            return await self.encode_few(encoder, lambda: images, len(images), np.asarray)
        encoded = np.empty((len(images), *encoder.output_shape), np.float32)

        async def run(part: slice) -> None:
            give, count = partial(np.asarray, images[part]), len(images[part])
            encoded[part] = await self.encode_few(encoder, give, count, np.asarray)

        await self._in_parts(len(images), self.most_images(encoder), run)
        return encoded

    async def crop_maps(self, maps: Maps, images: Floats, crop_count: int, seed: int) -> Floats:
        """Map crops of prepared `(n, *input.shape)` to `(crop_count, n, *maps.shape)`.

        The seed decides their windows. They run as images do that are encoded.
        """
        count = len(images)
        windows = draw_windows(crop_count * count, images.shape[1:], seed)
        found = np.empty((crop_count * count, *maps.shape), np.float32)

        async def run(part: slice) -> None:
            def give() -> Floats:
                with current_call().measure("compute"):
                    numbers = np.arange(part.start, part.stop) % count
                    return cut(images[numbers], windows[part])

            request = Request(give, np.asarray, part.stop - part.start)
            found[part] = await self._run(maps, request, maps.of)

        await self._in_parts(len(found), self.most_images(maps), run)
        return found.reshape(crop_count, count, *maps.shape)

    async def _in_parts(
        self, count: int, step: int, run: Callable[[slice], Awaitable[None]]
    ) -> None:
        """Run over `count` images, `step` at a time, on all cores."""
        starts = iter(range(0, count, step))

        async def stream() -> None:
            for start in starts:
                await run(slice(start, min(start + step, count)))

        with current_call().side_by_side():
            await asyncio.gather(*(stream() for _ in range(self._lanes)))

    async def encode_few(
        self,
        encoder: Encoder,
        prepare: Callable[[], Floats],
        count: int,
        finish: Callable[[Floats], Result],
    ) -> Result:
        """Encode at most `most_images` that `prepare` gives; return what `finish` makes.

        All three in one job. Raises what they raise.
        """
        request = Request(prepare, finish, count)
        return cast(Result, await self._run(encoder, request, encoder.encode))

    async def _run(
        self, encoder: Encoder | Maps, request: Request[Any], run: Callable[[Floats], Floats]
    ) -> Any:  # noqa: ANN401 -- what the request's `finish` makes
        most = self.most_images(encoder)
        return await self._batches.answer(encoder, request, run, most)
