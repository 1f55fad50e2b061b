"""A bare grpc.aio server that gives every Predict the same answer: what the front is compared to.

python -m kshot.bench.serve.echo_server < ANSWER

Prints its port. ANSWER is an encoded `PredictResponse`. As in any server of the service each
request is decoded and each answer encoded; nothing else is done.
"""

import asyncio
import sys

import grpc

from kshot.v1 import adaptation_pb2 as wire

_SERVICE = wire.DESCRIPTOR.services_by_name["AdaptationService"].full_name


async def serve(answer: wire.PredictResponse) -> None:
    """Answer on a free loopback port, which is printed, until the process is ended."""

    async def predict(_request: wire.PredictRequest, _context: object) -> wire.PredictResponse:
        return answer

    handler: grpc.RpcMethodHandler[wire.PredictRequest, wire.PredictResponse]
    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=wire.PredictRequest.FromString,
        response_serializer=wire.PredictResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(_SERVICE, {"Predict": handler})
    server = grpc.aio.server(handlers=[handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(wire.PredictResponse.FromString(sys.stdin.buffer.read())))
