"""Calls to a server as bytes: made before they are sent, read when the load is over."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence

import grpc

from kshot.bench.serve.load import OK, Answer
from kshot.v1 import adaptation_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"].full_name

Call = Callable[[bytes], Awaitable[Answer]]

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A connection of its own, as another client has; else channels to one address share one.
    ("grpc.use_local_subchannel_pool", 1),
]


def open_connection(address: str) -> grpc.aio.Channel:
    """Make a connection to HOST:PORT that shares nothing with other connections."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def make_call(channel: grpc.aio.Channel, method: str, timeout: float) -> Call:
    """Make a function that sends a request and gives its answer, of whatever status."""
    send: Callable[..., Awaitable[bytes]] = channel.unary_unary(f"/{SERVICE}/{method}")

    async def call(request: bytes) -> Answer:
        try:
            return Answer(OK, await send(request, timeout=timeout))
        except grpc.aio.AioRpcError as error:
            return Answer(error.code().name)

    return call


def adapt_requests(request: wire.AdaptRequest) -> Callable[[], bytes]:
    """Make a function that gives the request with another seed each time.

    A server may answer equal requests by one run. A message that is appended to another is merged
    into it, so the seed alone is written anew.
    """
    fixed = request.SerializeToString()
    seeds = itertools.count(1)

    def next_request() -> bytes:
        options = wire.AdaptOptions(seed=next(seeds))
        return fixed + wire.AdaptRequest(options=options).SerializeToString()

    return next_request


def predict_requests(adapted_models: Sequence[str], queries: wire.Images) -> Callable[[], bytes]:
    """Make a function that gives requests to each adapted model in turn."""
    requests = [
        wire.PredictRequest(adapted_model=name, queries=queries).SerializeToString()
        for name in adapted_models
    ]
    return itertools.cycle(requests).__next__


def delete_request(adapted_model: str) -> bytes:
    """Write the request to delete one adapted model."""
    return wire.DeleteAdaptedModelRequest(adapted_model=adapted_model).SerializeToString()
