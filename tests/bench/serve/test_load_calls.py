from __future__ import annotations

import asyncio

import grpc

from kshot.bench.serve.load import Answer
from kshot.bench.serve.load_calls import (
    adapt_requests,
    delete_request,
    make_call,
    open_connection,
    predict_requests,
)
from kshot.v1 import adaptation_pb2 as wire


def test_requests_to_adapt_differ_in_the_seed_alone() -> None:
    request = wire.AdaptRequest(model="m", options=wire.AdaptOptions(step_count=7, seed=99))
    request.support_set.class_indices.extend([0, 1])
    next_request = adapt_requests(request)

    read = [wire.AdaptRequest.FromString(next_request()) for _ in range(3)]

    assert [item.options.seed for item in read] == [1, 2, 3]
    for item in read:
        item.options.seed = 99
    assert read == [request] * 3


def test_predictions_go_to_each_adapted_model_in_turn() -> None:
    queries = wire.Images(encoded=wire.EncodedImages(items=[b"x"]))
    next_request = predict_requests(["a", "b"], queries)

    read = [wire.PredictRequest.FromString(next_request()) for _ in range(3)]

    assert [item.adapted_model for item in read] == ["a", "b", "a"]
    assert all(item.queries == queries for item in read)


def test_a_request_to_delete_names_its_model() -> None:
    read = wire.DeleteAdaptedModelRequest.FromString(delete_request("am-1"))

    assert read.adapted_model == "am-1"


class Echo(grpc.GenericRpcHandler):
    """Answers the bytes that it is sent and refuses those that name a code."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            if request in (b"NOT_FOUND", b"UNAVAILABLE"):
                await context.abort(grpc.StatusCode[request.decode()], "refused")
            return handler_call_details.method.encode() + request

        return grpc.unary_unary_rpc_method_handler(answer)


def test_a_call_gives_the_bytes_or_the_code() -> None:
    async def main() -> list[Answer]:
        server = grpc.aio.server(handlers=[Echo()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with open_connection(f"127.0.0.1:{port}") as channel:
                call = make_call(channel, "Adapt", timeout=60)
                return [await call(bytes_) for bytes_ in (b"1", b"NOT_FOUND", b"UNAVAILABLE")]
        finally:
            await server.stop(None)

    assert asyncio.run(main()) == [
        Answer("OK", b"/kshot.v1.AdaptationService/Adapt1"),
        Answer("NOT_FOUND"),
        Answer("UNAVAILABLE"),
    ]


def test_a_server_that_is_gone_is_a_code_too() -> None:
    async def main() -> Answer:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.stop(None)
        async with open_connection(f"127.0.0.1:{port}") as channel:
            return await make_call(channel, "Adapt", timeout=60)(b"")

    assert asyncio.run(main()) == Answer("UNAVAILABLE")
