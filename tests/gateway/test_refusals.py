"""Refusals are counted, and say what their caller can do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import httpx
import pytest

from kshot.gateway.app import Gateway, make_app
from kshot.gateway.errors import REASONS, RequestError
from kshot.gateway.refusals import Refusals

MODELS = "/v1/adapted_models"
JSON = {"content-type": "application/json"}
Asked = tuple[str, str, Mapping[str, str], bytes]


def answers(
    asked: Sequence[Asked], server: str = "none"
) -> tuple[list[httpx.Response], list[tuple[str, str, int]]]:
    """Return the answers of a gateway that reaches no server, and what it counted."""
    refusals = Refusals()

    async def main() -> list[httpx.Response]:
        async with grpc.aio.insecure_channel(f"unix:{server}") as channel:
            app = make_app(Gateway(channel, 1024, refusals), [], "127.0.0.1:1")
            transport = httpx.ASGITransport(app)
            base = "http://127.0.0.1"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return [
                    await client.request(method, path, headers=headers, content=content)
                    for method, path, headers, content in asked
                ]

    return asyncio.run(main()), refusals.take()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("GET", "/", {"host": "evil.example"}, b""), "UNKNOWN_HOST"),
        (("GET", "/", {"origin": "http://evil.example"}, b""), "FOREIGN_PAGE"),
        (("POST", MODELS, {}, b"a=b"), "CONTENT_TYPE"),
        (("POST", MODELS, JSON, b"{"), "INVALID_REQUEST"),
        (("GET", f"{MODELS}?page_size=x", {}, b""), "INVALID_REQUEST"),
        (("POST", MODELS, JSON | {"content-length": str(2**30)}, b"{}"), "BODY_TOO_LARGE"),
        (("GET", "/v1/nothing", {}, b""), "NO_SUCH_PATH"),
        (("GET", "/page/%00", {}, b""), "NO_SUCH_PATH"),
        (("GET", "/page/" + "a" * 5000, {}, b""), "NO_SUCH_PATH"),
        (("PUT", MODELS, {}, b""), "METHOD_NOT_ALLOWED"),
    ],
)
def test_each_is_counted_by_its_reason(asked: Asked, reason: str) -> None:
    (answer,), counted = answers([asked])

    status, code = REASONS[reason]
    assert counted == [(code, reason, 1)]
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (status, code)
    assert [detail["reason"] for detail in error["details"]] == [reason]


def test_methods_that_a_path_has_are_named() -> None:
    found, _ = answers(
        [
            ("PUT", MODELS, {}, b""),
            ("OPTIONS", f"{MODELS}/am-1", {}, b""),
            ("GET", f"{MODELS}:predict", {}, b""),
            ("POST", "/", {}, b""),
            ("POST", "/page/main.js", {}, b""),
        ]
    )

    assert {answer.status_code for answer in found} == {405}
    assert [answer.headers["allow"] for answer in found] == [
        "GET, HEAD, POST",
        "DELETE, GET, HEAD, PATCH",
        "POST",
        "GET, HEAD",
        "GET, HEAD",
    ]


def test_a_server_that_is_away_says_when_to_ask_again() -> None:
    (answer,), counted = answers([("GET", "/v1/capabilities?timeout=60", {}, b"")])

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert counted == []  # there was a call


def test_an_answer_that_takes_too_long_is_told_in_words(tmp_path: Path) -> None:
    """A server that hears and never answers: a fast one may keep any time."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        asked = ("GET", "/v1/capabilities?timeout=0.1", {}, b"")
        (answer,), counted = answers([asked], server=str(tmp_path / "mute"))

    assert answer.status_code == 504
    assert "?timeout=" in answer.json()["error"]["message"]
    assert counted == []  # there was a call


def test_lack_of_room_says_when_to_ask_again() -> None:
    for reason, (status, _) in REASONS.items():
        answer = Refusals().answer(RequestError(reason, "no room"))

        assert ("retry-after" in answer.headers) == (status == 503)


def test_what_is_told_is_not_told_again() -> None:
    refusals = Refusals()
    for _ in range(2):
        refusals.answer(RequestError("UNKNOWN_HOST", "no"))

    assert refusals.take() == [("PERMISSION_DENIED", "UNKNOWN_HOST", 2)]
    assert refusals.take() == []
