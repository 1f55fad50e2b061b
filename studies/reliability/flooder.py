"""`python -m studies.reliability.flooder ADDRESS FLOOD`: a client that floods until it is ended.

`burn` speaks to no server and burns a share of a core, ADDRESS being the share.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
from PIL import Image

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.reliability.callers import open_channel

BURN = "burn"
NICENESS = 10
CALLS = 64
WAY = 5
_SIDE, _FILE_SIDE, _FILES = 28, 600, 150
_COARSE = 6  # so that files are small and take long
_PERIOD, _PAUSE, _SECONDS = 0.02, 0.05, 600.0


def support_set(count: int, seed: int, as_files: bool = False) -> wire.SupportSet:
    """Draw a support set of five classes."""
    return wire.SupportSet(
        images=_files(count, seed) if as_files else pictures(count, seed),
        class_indices=[index % WAY for index in range(count)],
        class_names=[str(index) for index in range(WAY)],
    )


def pictures(count: int, seed: int) -> wire.Images:
    """Draw pictures of noise as a tensor."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, _SIDE, _SIDE), np.uint8)
    shape, data = pixels.shape, pixels.tobytes()
    return wire.Images(tensor=wire.Tensor(datatype="UINT8", shape=shape, data=data))


def _files(count: int, seed: int) -> wire.Images:
    pixels = np.random.default_rng(seed).integers(0, 256, (_COARSE, _COARSE, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).resize((_FILE_SIDE,) * 2).save(written, "JPEG", quality=30)
    return wire.Images(encoded=wire.EncodedImages(items=[written.getvalue()] * count))


def _adapt(model: str, count: int, step_count: int) -> wire.AdaptRequest:
    request = wire.AdaptRequest(model=model, support_set=support_set(count, 1))
    request.options.step_count = step_count
    request.options.ttl.FromSeconds(60)
    return request


def _tail(model: str) -> wire.AdaptRequest:
    request = wire.AdaptRequest(model=model, support_set=support_set(50, 1))
    request.options.time_budget.FromSeconds(60)
    request.options.ttl.FromSeconds(60)
    return request


Flood = Callable[[str, str], tuple[str, Any]]
# Of a model and an adapted model.
FLOODS: Mapping[str, Flood] = {
    "predict": lambda _, adapted: (
        "Predict",
        wire.PredictRequest(adapted_model=adapted, queries=pictures(1000, 1)),
    ),
    "adapt": lambda model, _: ("Adapt", _adapt(model, 1000, 200)),
    "decode": lambda _, adapted: (
        "Predict",
        wire.PredictRequest(adapted_model=adapted, queries=_files(_FILES, 1)),
    ),
    "tail": lambda model, _: ("Adapt", _tail(model)),
}


def burn(share: float) -> None:
    """Burn a share of a core."""
    while True:
        until = time.perf_counter() + _PERIOD * share
        while time.perf_counter() < until:
            pass
        time.sleep(_PERIOD * (1 - share))


async def flood(address: str, name: str, model: str) -> None:
    """Keep as many calls under way as one connection may."""
    channel = open_channel(address)
    stub: Any = AdaptationServiceStub(channel)
    adapted = ""
    if name in ("predict", "decode"):
        first = await stub.Adapt(_adapt(model, WAY, 1), timeout=_SECONDS)
        adapted = first.adapted_model.id
    method, request = FLOODS[name](model, adapted)

    async def call() -> None:
        while True:
            try:
                await getattr(stub, method)(request, timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_PAUSE)

    calls = [asyncio.create_task(call()) for _ in range(CALLS)]
    print("flooding", flush=True)
    await asyncio.gather(*calls)


def main() -> None:
    """Flood, or burn."""
    os.nice(NICENESS)
    address, name, model = sys.argv[1:4]
    if name == BURN:
        print("burning", flush=True)
        burn(float(address))
    asyncio.run(flood(address, name, model))


if __name__ == "__main__":
    main()
