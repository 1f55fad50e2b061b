"""The calls of a session with a real server, and of one connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from kshot.bench.serve.load_generator import OK, Answer, Clock, closed_loop
from kshot.bench.serve.requests import Workload
from kshot.bench.serve.server_calls import make_call, open_connection, open_session, try_out
from kshot.bench.serve.server_process import ServerProcess
from kshot.client import Client, InvalidArgumentError, ModelCapabilities
from kshot.client.commands.options import Server


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


def test_a_call_returns_bytes_or_a_code() -> None:
    async def main() -> list[Answer]:
        server = grpc.aio.server(handlers=[Echo()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with open_connection(Server(f"127.0.0.1:{port}")) as channel:
                call = make_call(channel, "Adapt", timeout=60)
                return [await call(bytes_) for bytes_ in (b"1", b"NOT_FOUND", b"UNAVAILABLE")]
        finally:
            await server.stop(None)

    assert asyncio.run(main()) == [
        Answer("OK", b"/kshot.v1.AdaptationService/Adapt1"),
        Answer("NOT_FOUND"),
        Answer("UNAVAILABLE"),
    ]


def test_an_ended_server_is_a_code() -> None:
    async def main() -> Answer:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.stop(None)
        async with open_connection(Server(f"127.0.0.1:{port}")) as channel:
            return await make_call(channel, "Adapt", timeout=60)(b"")

    assert asyncio.run(main()) == Answer("UNAVAILABLE")


def test_every_call_of_a_session_is_answered_once(
    server: ServerProcess, model: ModelCapabilities
) -> None:
    """The store knows as many models as there were answers, and forgets them."""
    workload = Workload(way=2, step_count=1)

    async def drive() -> None:
        with Client(server.address, timeout=60) as client:
            async with open_session(server.endpoint, workload, model, own=False) as session:
                kept = await session.keep()
                load = await closed_loop(session.adapt, 2, 0.2, Clock())
                assert {sample.answer.code for sample in load.samples} == {OK}
                ids = {adapted.id for adapted in client.list()}
                assert len(ids) == len(load.samples) + 1
                await session.forget()
                assert [adapted.id for adapted in client.list()] == [kept]
                load = await closed_loop(session.predict([kept]), 3, 0.2, Clock())
                assert {sample.answer.code for sample in load.samples} == {OK}
            assert list(client.list()) == []

    asyncio.run(drive())


def test_a_missing_adapted_model_fails_every_call(
    server: ServerProcess, model: ModelCapabilities
) -> None:
    async def drive() -> set[str]:
        async with open_session(server.endpoint, Workload(), model, own=False) as session:
            send = session.predict(["am-" + "a" * 26])
            load = await closed_loop(send, 2, 0.01, Clock())
            return {sample.answer.code for sample in load.samples}

    assert asyncio.run(drive()) == {"NOT_FOUND"}


def test_failed_deletes_are_reported(
    server: ServerProcess, model: ModelCapabilities, capsys: pytest.CaptureFixture[str]
) -> None:
    async def drive() -> None:
        async with open_session(server.endpoint, Workload(), model, own=False) as session:
            await session.delete(["am-" + "a" * 26] * 2)

    asyncio.run(drive())

    assert "2 adapted models were not deleted (NOT_FOUND)" in capsys.readouterr().err


def test_a_refused_workload_fails_before_the_loads(
    server: ServerProcess, model: ModelCapabilities
) -> None:
    with pytest.raises(InvalidArgumentError, match="step_count"):
        try_out(server.endpoint, Workload(step_count=10**6), model)
