from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import httpx
import pytest
from starlette.requests import Request

from kshot.gateway import app as module
from kshot.gateway.app import Gateway, make_app
from kshot.gateway.errors import invalid
from kshot.gateway.refusals import Refusals
from kshot.gateway.routes import ROUTES

ADAPT = next(route for route in ROUTES if route.rpc == "Adapt")


def test_a_caller_that_leaves_while_it_sends_is_no_failure() -> None:
    """Else anybody could fill the log with tracebacks."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": ADAPT.path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
    }

    async def leave() -> Any:  # noqa: ANN401 -- a message of ASGI
        return {"type": "http.disconnect"}

    async def status() -> int:
        async with grpc.aio.insecure_channel("unix:none") as channel:
            answer = await Gateway(channel, 1024, Refusals()).answer(ADAPT, Request(scope, leave))
        assert not isinstance(answer, module.Parts)
        return answer.status_code

    assert asyncio.run(status()) == 499


def test_large_bodies_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2)
    alone = []

    def read(*_parts: object) -> None:
        try:
            together.wait(0.05)
        except threading.BrokenBarrierError:
            alone.append(True)
        raise invalid("read")

    monkeypatch.setattr(module, "_ON_LOOP", 0)
    monkeypatch.setattr(module, "read_request", read)

    async def ask() -> list[int]:
        async with grpc.aio.insecure_channel("unix:none") as channel:
            app = make_app(Gateway(channel, 1024, Refusals()), [], "127.0.0.1:1")
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                asked = (client.post(ADAPT.path, json={}) for _ in range(2))
                return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [400, 400]
    assert alone == [True, True]
