"""What a page of another site can send is refused before anything of it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kshot.gateway.app import Gateway, make_app
from kshot.gateway.guard import Guard
from kshot.gateway.refusals import Refusals

BASE = "http://127.0.0.1:8080"


class Client:
    """Requests to an application behind the guard."""

    def __init__(self) -> None:
        async def answer(_request: Request) -> Response:
            return PlainTextResponse("answered")

        routes = [Route(path, answer, methods=["GET", "POST"]) for path in ("/", "/v1/x")]
        self._app = Guard(Starlette(routes=routes), ["shop.example"], Refusals())

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(ask())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.request("GET", path, headers)

    def post(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.request("POST", path, headers)


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "[::1]:8080", "localhost", "192.0.2.7", "shop.example", "SHOP.example:1"],
)
def test_addresses_and_own_names_are_answered(client: Client, host: str) -> None:
    assert client.get("/v1/x", headers={"host": host}).text == "answered"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "[", "shop.example.evil"]
)
def test_a_rebound_name_is_refused(client: Client, host: str) -> None:
    answer = client.get("/v1/x", headers={"host": host})

    assert answer.status_code == 421
    assert "--http-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9090", "http://[", "http://[v]"]
)
def test_another_origin_is_refused(client: Client, origin: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, "/v1/x", headers={"origin": origin})

        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_the_own_origin_is_answered(client: Client) -> None:
    assert client.post("/v1/x", headers={"origin": BASE}).text == "answered"
    behind_a_proxy = {"origin": "https://shop.example", "host": "shop.example"}
    assert client.post("/v1/x", headers=behind_a_proxy).text == "answered"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_foreign_page_embeds_is_refused(client: Client, site: str) -> None:
    """Such requests have no origin: as the source of an image, or a form that is sent."""
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert client.get("/v1/x", headers=headers).status_code == 403
    navigation = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert client.get("/v1/x", headers=navigation).status_code == 403
    assert client.post("/", headers=navigation).status_code == 403


def test_a_link_to_the_page_opens_it(client: Client) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}

    assert client.get("/", headers=headers).text == "answered"


def test_every_answer_says_what_a_page_may_do(client: Client) -> None:
    for answer in (client.get("/"), client.get("/", headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_failure_has_the_same_headers() -> None:
    """The answer to a failure is made outside of what answers requests."""

    class Failing(Gateway):
        async def answer(self, route: object, request: Request) -> Response:
            raise RuntimeError(route, request)

    async def ask() -> httpx.Response:
        async with grpc.aio.insecure_channel("unix:none") as channel:
            app = make_app(Failing(channel, 1024, Refusals()), [], "127.0.0.1:1")
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                return await client.get("/v1/capabilities")

    answer = asyncio.run(ask())

    assert answer.status_code == 500
    assert "default-src 'none'" in answer.headers["content-security-policy"]
