"""Calls to a server as bytes: made before they are sent, read after the load is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import grpc
import numpy as np
import numpy.typing as npt

from kshot.bench.load import OK, Answer, Send
from kshot.client.options import encode_choice
from kshot.v1 import adaptation_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"].full_name

# Should a bench be killed, what it made on somebody's server goes by itself after this.
_TTL_SECONDS = 3600

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A connection of its own, as another client has; without this, channels share one.
    ("grpc.use_local_subchannel_pool", 1),
]

Pixels = npt.NDArray[np.uint8 | np.float32]


def open_connection(address: str) -> grpc.aio.Channel:
    """Make a connection to HOST:PORT that shares nothing with other connections."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def make_send(
    channel: grpc.aio.Channel, method: str, next_request: Callable[[], bytes], timeout: float
) -> Send:
    """Make the function that sends one call, bytes as they are, and never raises its status."""
    call = channel.unary_unary(f"/{SERVICE}/{method}")

    async def send() -> Answer:
        try:
            return Answer(OK, await call(next_request(), timeout=timeout))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name)

    return send


def random_images(shape: Sequence[int], count: int, seed: int = 0) -> wire.Images:
    """Make noise of a model's input shape (channels, height, width), as a client would send it.

    UINT8 (count, height, width[, channels]) where the channels are those of an image, else FP32.
    """
    channels, height, width = shape
    generator = np.random.default_rng(seed)
    if channels in (1, 3, 4):
        tail = () if channels == 1 else (channels,)
        pixels: Pixels = generator.integers(0, 256, (count, height, width, *tail), np.uint8)
        datatype = "UINT8"
    else:
        pixels = generator.random((count, channels, height, width), np.float32)
        datatype = "FP32"
    tensor = wire.Tensor(datatype=datatype, shape=pixels.shape, data=pixels.tobytes())
    return wire.Images(tensor=tensor)


def adapt_requests(request: wire.AdaptRequest) -> Callable[[], bytes]:
    """Return a function that gives the request with another seed each time.

    Equal requests could be answered by one run. A message that is appended to another is merged
    into it, so only the seed is written anew.
    """
    request.options.ttl.FromSeconds(_TTL_SECONDS)
    fixed = request.SerializeToString()
    seeds = itertools.count(1)

    def next_request() -> bytes:
        options = wire.AdaptOptions(seed=next(seeds))
        return fixed + wire.AdaptRequest(options=options).SerializeToString()

    return next_request


def predict_requests(
    adapted_models: Sequence[str], queries: wire.Images, batch_norm_mode: str | None
) -> Callable[[], bytes]:
    """Return a function that gives requests for each adapted model in turn."""
    requests = []
    for name in adapted_models:
        request = wire.PredictRequest(adapted_model=name, queries=queries)
        if batch_norm_mode is not None:
            request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
        requests.append(request.SerializeToString())
    return itertools.cycle(requests).__next__
