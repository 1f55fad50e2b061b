"""JSON over HTTP: a server with its gateway, by plain requests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from google.protobuf import json_format

from kshot.server.errors import StartError
from kshot.server.gateway_link import gateway as module
from kshot.v1 import adaptation_pb2 as wire
from tests.server.front.fake_engine import HANG_UNTIL_LEFT
from tests.server.front.secured import Secured, bearer

Make = Callable[..., Any]
MODELS = "/v1/adapted_models"


@pytest.fixture(scope="module")
def server(
    make_config: Make,
    run_in_thread: Make,
    pipes: Path,  # noqa: ARG001 -- the fake engine needs it
) -> Iterator[Any]:
    """A server with a gateway."""
    settings = {"http_hosts": ("kshot.test",), "metrics": "127.0.0.1:0"}
    with run_in_thread(make_config(http="127.0.0.1:0", **settings)) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:  # noqa: ANN401 -- a running server
    """Requests to it."""
    with httpx.Client(base_url=f"http://{server.ready['http']}", timeout=60) as client:
        yield client


def as_json(message: Any) -> Any:  # noqa: ANN401 -- any message
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def adapted(http: httpx.Client, request: wire.AdaptRequest) -> Any:  # noqa: ANN401 -- a document
    answer = http.post(MODELS, json=as_json(request))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_model_lives_as_by_grpc(
    http: httpx.Client,
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    queries: Make,
) -> None:
    made = adapted(http, adapt_request())
    one = f"{MODELS}/{made['adapted_model']['id']}"
    asked = wire.PredictRequest(queries=queries())

    answer = http.post(f"{one}:predict", json=as_json(asked))

    asked.adapted_model = made["adapted_model"]["id"]
    wanted = as_json(server.stub.Predict(asked, timeout=30))
    assert {**answer.json(), "timing": None} == {**wanted, "timing": None}
    assert "compute;dur=" in answer.headers["server-timing"]
    assert len(answer.headers["x-kshot-request-id"]) == 16
    assert http.get(one).json() == {"adapted_model": made["adapted_model"]}
    listed = http.get(MODELS, params={"page_size": 100, "model": "tiny"}).json()["adapted_models"]
    assert made["adapted_model"] in listed
    renewed = http.patch(one, json={"ttl": "7200s"}).json()["adapted_model"]
    assert renewed["expire_time"] > made["adapted_model"]["expire_time"][:4]
    assert renewed["etag"] != made["adapted_model"]["etag"]
    assert http.delete(one).status_code == 200
    gone = http.get(one)
    assert gone.status_code == 404
    details = gone.json()["error"]["details"]
    assert "ADAPTED_MODEL_DELETED" in [detail.get("reason") for detail in details]


def test_examples_are_revised(http: httpx.Client, adapt_request: Make) -> None:
    made = adapted(http, adapt_request())["adapted_model"]

    answer = http.post(f"{MODELS}/{made['id']}:revise", json={"removed_indices": [0]})

    assert answer.json()["adapted_model"]["parent"] == made["id"]
    assert answer.json()["adapted_model"]["support_count"] == made["support_count"] - 1


def test_an_export_is_a_file_that_comes_back(http: httpx.Client, adapt_request: Make) -> None:
    made = adapted(http, adapt_request())["adapted_model"]

    file = http.get(f"{MODELS}/{made['id']}:export")

    assert f"{made['id']}.onnx" in file.headers["content-disposition"]
    digest = hashlib.sha256(file.content).hexdigest()
    assert file.headers["x-kshot-sha256"] == digest
    kind = {"content-type": "application/octet-stream"}
    parameters = {"sha256": digest, "ttl": "600s"}
    back = http.post(f"{MODELS}:import", params=parameters, content=file.content, headers=kind)
    assert back.json()["adapted_model"]["weights_digest"] == made["weights_digest"]


def test_progress_comes_as_lines(http: httpx.Client, adapt_request: Make) -> None:
    body = {"adapt": as_json(adapt_request(step_count=5)), "progress_interval": "0.02s"}

    answer = http.post(f"{MODELS}:stream", json=body)

    assert answer.headers["content-type"] == "application/x-ndjson"
    *progress, last = [json.loads(line) for line in answer.text.splitlines()]
    assert all("progress" in line for line in progress)
    assert last["result"]["adapted_model"]["step_count"] == 5


def test_adapt_and_predict_keeps_nothing(
    http: httpx.Client, adapt_request: Make, queries: Make
) -> None:
    request = adapt_request()
    body = as_json(
        wire.AdaptAndPredictRequest(
            model="tiny", support_set=request.support_set, queries=queries(2)
        )
    )

    answer = http.post(f"{MODELS}:predict", json=body)

    assert len(answer.json()["predictions"]) == 2
    assert "id" not in answer.json()["adapted_model"]


def test_a_caller_that_leaves_ends_the_inner_loop(
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
    wait_arrival: Callable[[], str],
) -> None:
    """The caller leaves once its task has arrived, whatever time that takes."""
    host, _, port = server.ready["http"].rpartition(":")
    for path, body in (
        (MODELS, as_json(adapt_request(seed=HANG_UNTIL_LEFT))),
        (f"{MODELS}:stream", {"adapt": as_json(adapt_request(seed=HANG_UNTIL_LEFT))}),
    ):
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=60) as caller:
            caller.sendall(head.encode() + content)
            wait_arrival()
        wait_arrival()  # the engine's task has ended


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "expected a kshot.v1.AdaptRequest as JSON"),
        (b"\xff", "expected a kshot.v1.AdaptRequest as JSON"),
        (b'{"modell": "tiny"}', 'no field named "modell"'),
        (b'{"options": {"step_count": "many"}}', "step_count"),
        (b'{"support_set": {"images": {"encoded": {"items": ["*"]}}}}', "items"),
        (b"[" * 5000, "expected a kshot.v1.AdaptRequest as JSON"),
        (b'{"model": "tiny"}', "support_set.class_names"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_words(
    http: httpx.Client, content: bytes, said: str
) -> None:
    answer = http.post(MODELS, content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert said in answer.json()["error"]["message"]


def test_requests_that_fit_no_route_are_refused_in_words(http: httpx.Client) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    for answer, status in (
        (http.get("/v1/nothing"), 404),
        (http.put(MODELS), 405),
        (http.post(MODELS, content="a=b", headers=form), 415),
        (http.get("/v1/capabilities?timeout=never"), 400),
        (http.get("/v1/capabilities?timeout=1e9"), 400),
        (http.get(f"{MODELS}?page_size=x"), 400),
        (http.post(f"{MODELS}/a:predict", json={"adapted_model": "b"}), 400),
        (http.get(f"{MODELS}/..%2f..%2fetc"), 404),
        (http.get("/page/../app.py"), 404),
        (http.get("/page/%2e%2e/app.py"), 404),
    ):
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["message"]


def test_a_body_above_the_limit_is_refused_unread(
    make_config: Make, run_in_thread: Make, pipes: Path
) -> None:
    del pipes
    config = make_config(http="127.0.0.1:0", max_message_bytes=1024)
    with run_in_thread(config) as server:
        base = f"http://{server.ready['http']}"
        kind = {"content-type": "application/json"}
        told = httpx.post(base + MODELS, content=b" " * 2**21, headers=kind, timeout=60)
        parts = (b" " * 2**16 for _ in range(64))
        untold = httpx.post(base + MODELS, content=parts, headers=kind, timeout=60)
    for answer in (told, untold):
        assert answer.status_code == 413
        assert "--max-message-bytes" in answer.json()["error"]["message"]


def test_a_foreign_page_can_neither_adapt_nor_read(
    http: httpx.Client,
    server: Any,  # noqa: ANN401 -- a running server
    adapt_request: Make,
) -> None:
    body = as_json(adapt_request())
    before = http.get(MODELS, params={"page_size": 1000}).text
    for headers in (
        {"host": "rebound.example"},
        {"origin": "http://foreign.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ):
        assert http.post(MODELS, json=body, headers=headers).status_code in (403, 421)
        assert http.get(MODELS, headers=headers).status_code in (403, 421)
    preflight = {"origin": "http://foreign.example", "access-control-request-method": "POST"}
    refused = http.options(MODELS, headers=preflight)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
    text = {"content-type": "text/plain"}
    assert http.post(MODELS, content=json.dumps(body), headers=text).status_code == 415
    assert http.get(MODELS, params={"page_size": 1000}).text == before
    named = {"host": f"kshot.test:{server.ready['http'].rpartition(':')[2]}"}
    assert http.get(MODELS, headers=named).status_code == 200


def test_refusals_are_among_the_metrics(
    http: httpx.Client,
    server: Any,  # noqa: ANN401 -- a running server
) -> None:
    """The gateway tells the server of them, now and then."""
    line = 'kshot_http_refusals_total{code="PERMISSION_DENIED",reason="UNKNOWN_HOST"}'
    http.get("/", headers={"host": "rebound.example"})

    while line not in httpx.get(f"http://{server.ready['metrics']}/metrics", timeout=60).text:
        time.sleep(0.05)


def test_the_page_and_its_files_are_there(http: httpx.Client) -> None:
    page = http.get("/")

    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text
    assert "style=" not in page.text
    assert "http://" not in page.text
    script = http.get("/page/main.js")
    assert "javascript" in script.headers["content-type"]
    assert http.get("/healthz").text == "ok\n"
    assert http.get("/v1/openapi.json").json()["openapi"] == "3.1.0"


def test_a_dead_gateway_touches_no_call_and_comes_back(
    http: httpx.Client,
    server: Any,  # noqa: ANN401 -- a running server
) -> None:
    named = f"--listen {server.ready['http'].rpartition(':')[0]}"
    children = subprocess.run(
        ["pgrep", "-f", f"kshot.gateway {named}"], stdout=subprocess.PIPE, text=True, check=True
    )
    pids = [int(pid) for pid in children.stdout.split()]
    mine = [
        pid for pid in pids if Path(f"/proc/{pid}/stat").read_text().split()[3] == str(os.getpid())
    ]
    for pid in mine:
        os.kill(pid, signal.SIGKILL)

    assert server.stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).models
    until = time.monotonic() + 60
    while True:
        try:
            assert http.get("/healthz").text == "ok\n"
            break
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_keys_and_certificates_are_those_of_grpc(
    make_config: Make, run_in_thread: Make, tmp_path: Path, pipes: Path, adapt_request: Make
) -> None:
    """Whoever reads the page needs none; what it asks for does."""
    del pipes
    secured = Secured.create(tmp_path, trustme.CA())
    ports = {"http": "127.0.0.1:0", "metrics": "127.0.0.1:0"}
    config = make_config(**ports, **secured.settings("tls"))
    with run_in_thread(config) as server:
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        address = f"https://{server.ready['http']}"
        with httpx.Client(base_url=address, verify=trusted, timeout=60) as http:
            assert http.get("/").status_code == 200
            refused = http.get(MODELS, headers={"x-forwarded-for": "192.0.2.9"})
            assert (refused.status_code, refused.json()["error"]["status"]) == (
                401,
                "UNAUTHENTICATED",
            )
            assert b" 401 " in beginning_of_answer(server.ready["http"], trusted)
            ((_, value),) = bearer(secured.keys["right"])
            mine = {"authorization": value}
            made = http.post(MODELS, json=as_json(adapt_request()), headers=mine)
            assert made.status_code == 200
            ((_, value),) = bearer(secured.keys["other"])
            one = f"{MODELS}/{made.json()['adapted_model']['id']}"
            assert http.get(one, headers={"authorization": value}).status_code == 404
            assert http.get(one, headers=mine).status_code == 200
            counted = httpx.get(f"http://{server.ready['metrics']}/metrics", timeout=60).text
            assert 'code="UNAUTHENTICATED",method="ListAdaptedModels"' in counted
    noted = (tmp_path / "audit").read_text()
    assert "http:127.0.0.1" in noted
    assert "192.0.2.9" not in noted  # a caller cannot name itself


def beginning_of_answer(address: str, trusted: ssl.SSLContext) -> bytes:
    """Send a part of a large body without a key, and wait."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 30) as connection,
        trusted.wrap_socket(connection, server_hostname=host) as secure,
    ):
        head = f"POST {MODELS} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        secure.sendall(f"{head}content-length: {2**24}\r\n\r\n".encode() + bytes(2**19))
        return secure.recv(64)


def test_headers_of_proxies_are_left_unread(http: httpx.Client) -> None:
    headers = {"x-forwarded-for": "\xe9".encode("latin-1"), "x-forwarded-proto": b"https"}

    assert http.get("/v1/capabilities", headers=headers).status_code == 200


def test_a_second_signal_ends_an_open_stream(
    make_config: Make,
    run_in_thread: Make,
    pipes: Path,
    adapt_request: Make,
    wait_arrival: Callable[[], str],
) -> None:
    del pipes
    body = {"adapt": as_json(adapt_request(seed=HANG_UNTIL_LEFT))}
    with run_in_thread(make_config(http="127.0.0.1:0", drain_grace=600.0)) as server:
        base = f"http://{server.ready['http']}"
        ask = {"params": {"timeout": 600}, "json": body, "timeout": 60}
        with httpx.stream("POST", f"{base}{MODELS}:stream", **ask) as answer:
            lines = answer.iter_lines()
            assert "progress" in next(lines)
            wait_arrival()
            server.stop()
            with pytest.raises(httpx.ConnectError):  # it drains
                while True:
                    with suppress(httpx.ReadError, httpx.RemoteProtocolError):  # it was cut
                        httpx.get(f"{base}/healthz", timeout=60)
            server.hurry()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)


def test_missing_libraries_are_named(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEEDS", ("starlette", "no_such_library"))

    with pytest.raises(
        StartError, match=r"no_such_library: not installed; pip install 'kshot\[http\]'"
    ):
        module.Gateway(make_config(http="127.0.0.1:0"))


def test_a_taken_port_is_named(
    make_config: Make,
    run_in_thread: Make,
    server: Any,  # noqa: ANN401 -- a running server
    capfd: pytest.CaptureFixture[str],
) -> None:
    with (
        pytest.raises(StartError, match="it did not start"),
        run_in_thread(make_config(http=server.ready["http"])),
    ):
        pass
    assert "Address already in use; name another address" in capfd.readouterr().err


def test_it_ends_with_its_parent(server: Any, tmp_path: Path) -> None:  # noqa: ANN401 -- a running server
    del server
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "kshot.gateway", "--listen", "127.0.0.1:0"),
            *("--server", str(tmp_path / "none.sock"), "--grpc", "127.0.0.1:1"),
            *("--max-message-bytes", "1024", "--grace", "1"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["http"]
    gone = httpx.get(f"http://{address}/v1/capabilities", params={"timeout": 60}, timeout=90)
    assert gone.status_code == 503
    assert gone.json()["error"]["message"] == "the server cannot be reached now; try again"

    process.communicate(timeout=30)

    assert process.returncode == 0


def test_long_bodies_are_parsed(http: httpx.Client) -> None:
    """They are parsed in a thread."""
    items = [base64.b64encode(bytes(2**17)).decode()] * 4
    body = {
        "model": "tiny",
        "support_set": {
            "images": {"encoded": {"items": items}},
            "class_indices": [0, 0, 1, 1],
            "class_names": ["a", "b"],
        },
    }

    answer = http.post(MODELS, json=body)

    assert answer.status_code == 400
    assert "support_set.images" in answer.json()["error"]["message"]
