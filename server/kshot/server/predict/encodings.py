"""The images of all calls on their way through encoders: those that wait run together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
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
from kshot.server.predict.encoder import Encoder
from kshot.server.request.images import image_count
from kshot.server.request.inputs import Images
from kshot.server.workers import Workers

Floats = npt.NDArray[np.float32]
Result = TypeVar("Result")

# The images of one run. On one core an image takes as long in a run of 8 as alone, and a fifth
# longer in one of 16, which does not fit into the caches; others come in after each run.
MAX_CPU_IMAGES = 8
MAX_GPU_IMAGES = 64


class Encodings:
    """Encodes support sets and queries of all adapted models; for one event loop.

    An encoder runs on each core beside the others, up to `max_images` at a time. Images that
    arrive while it is busy share the next run, whichever adapted models they are for.
    """

    def __init__(self, workers: Workers, *, on_gpu: bool = False) -> None:
        self._lanes = 1 if on_gpu else os.cpu_count() or 1
        self.max_images = MAX_GPU_IMAGES if on_gpu else MAX_CPU_IMAGES
        self._on_gpu = on_gpu
        self._batches: Batches[Any] = Batches(workers, self.max_images, self._lanes)

    def takes(self, images: Images | None) -> bool:
        """Tell whether `encode_few` may prepare these images: few, and nobody waits long for it.

        A GPU waits for no file: threads decode these before.
        """
        few = (image_count(images) or 0) <= self.max_images
        return few and (quick_to_prepare(images) or (not self._on_gpu and quick_to_decode(images)))

    async def encode(self, encoder: Encoder, images: Floats) -> Floats:
        """Map prepared `(n, *input.shape)` to `(n, *output_shape)`.

        Many images go in several runs, on all cores; other calls come in between.
        """
        step = self.max_images
        if len(images) <= step:
            return await self.encode_few(encoder, lambda: images, len(images), np.asarray)
        encoded = np.empty((len(images), *encoder.output_shape), np.float32)
        starts = iter(range(0, len(images), step))

        async def stream() -> None:
            for start in starts:
                part = images[start : start + step]
                give = partial(np.asarray, part)
                encoded[start : start + step] = await self.encode_few(
                    encoder, give, len(part), np.asarray
                )

        with current_call().side_by_side():
            await asyncio.gather(*(stream() for _ in range(self._lanes)))
        return encoded

    async def encode_few(
        self,
        encoder: Encoder,
        prepare: Callable[[], Floats],
        count: int,
        finish: Callable[[Floats], Result],
    ) -> Result:
        """Encode the images that `prepare` gives, at most `max_images`; return what `finish` makes.

        All three in one job. Raises what they raise.
        """
        request = Request(prepare, finish, count)
        return cast(Result, await self._batches.answer(encoder, request, encoder.encode))
