"""`kshot doctor`: each fault is found, and said with its remedy."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import trustme

from kshot.__main__ import main
from kshot.client.connection.credentials import Credentials
from kshot.operate import installation
from kshot.operate.finding import Finding, worst
from kshot.operate.installation import check_compiler, check_runtime, check_torch
from kshot.operate.machine import check_cache, check_disk, check_port
from kshot.operate.reach import check_folder_of_store, check_http


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let no library be imported in a process of its own, and keep to a folder."""
    answer = {"cuda": None, "gpu": None, "providers": ["CPUExecutionProvider"]}
    monkeypatch.setattr(installation, "_ask", lambda _script: answer)
    monkeypatch.setenv("KSHOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KSHOT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KSHOT_SERVER", "127.0.0.1:1")
    return tmp_path


def test_a_server_that_is_named_must_answer(
    cheap: Path,  # noqa: ARG001 -- asked for its effect
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json", "--listen", "127.0.0.1:0"]) == 1

    printed = json.loads(capsys.readouterr().out)
    found = {each["check"]: each for each in printed["findings"]}
    assert printed["state"] == "problem"
    assert (found["server"]["state"], found["store"]["state"]) == ("problem", "ok")
    assert "nothing listens there" in found["server"]["found"]
    assert {"kshot", "Python", "libraries", "GPU", "torch", "ONNX Runtime", "port"} <= set(found)
    assert found["HTTP port"]["state"] == "ok"  # nobody said that there should be one


def test_people_read_lines_without_colours(
    cheap: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (cheap / "cache").mkdir(mode=0o700)
    (cheap / "cache").chmod(0o777)

    assert main(["doctor", "--server", "127.0.0.1:1"]) == 1

    said = capsys.readouterr().out
    assert "problem cache: " in said
    assert "chmod 700" in said
    assert "\x1b" not in said


def test_two_runtimes_clash() -> None:
    found = check_runtime(("onnxruntime", "onnxruntime-gpu"), gpu=True)

    assert found.state == "problem"
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found.remedy
    assert "[gpu]" in found.remedy


def test_a_gpu_that_a_library_does_not_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"cuda": None, "gpu": None, "providers": ["CPUExecutionProvider"]}
    monkeypatch.setattr(installation, "_ask", lambda _script: answer)

    assert check_torch("2.13", gpu=True).state == "warning"
    assert check_runtime(("onnxruntime",), gpu=True).state == "warning"
    assert check_torch("2.13", gpu=False).state == "ok"


def test_a_broken_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_ASK_RUNTIME", "raise ImportError('libgomp is missing')")

    found = check_runtime(("onnxruntime",), gpu=False)

    assert (found.state, "libgomp is missing" in found.found) == ("problem", True)


def test_without_a_compiler_steps_are_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    found = check_compiler()

    assert found.state == "warning"
    assert "no g++ or clang++ and no openssl" in found.found


def test_the_cache_must_be_private(tmp_path: Path) -> None:
    assert check_cache(tmp_path / "new").state == "ok"
    tmp_path.chmod(0o770)
    assert check_cache(tmp_path).state == "problem"
    tmp_path.chmod(0o700)
    assert check_cache(tmp_path).state == "ok"


def test_folders_of_one_disk_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (tmp_path / "a", tmp_path / "b")
    assert len(list(check_disk(folders))) == 1

    class Full:
        free = 10

    monkeypatch.setattr("shutil.disk_usage", lambda _place: Full)

    assert [each.state for each in check_disk(folders)] == ["problem"]


def test_a_port_that_others_have_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert check_port("127.0.0.1", port, served=False).state == "warning"
        assert check_port("127.0.0.1", port, served=True).state == "ok"


class Answers(BaseHTTPRequestHandler):
    """Answers as `server` says: documents by path, or a status."""

    def do_GET(self) -> None:
        said = cast(Any, self.server).said[self.path.partition("?")[0]]
        self.send_response(said if isinstance(said, int) else 200)
        self.end_headers()
        self.wfile.write(b"" if isinstance(said, int) else json.dumps(said).encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def http() -> Iterator[ThreadingHTTPServer]:
    """An HTTP server in a thread."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


KSHOT = {"/v1/server": {"grpc": "127.0.0.1:50051"}, "/v1/capabilities": {}}


@pytest.mark.parametrize(
    ("said", "state", "found", "remedy"),
    [
        (KSHOT, "ok", "the same server as 127.0.0.1:50051", ""),
        (KSHOT | {"/v1/capabilities": 401}, "ok", "kshot", ""),
        (KSHOT | {"/v1/capabilities": 503}, "problem", "but not for its server", "log"),
        ({"/v1/server": 421}, "problem", "not a name", "--http-host 127.0.0.1"),
        ({"/v1/server": 404}, "warning", "another program", "kshot serve --http"),
        ({"/v1/server": {"a": "b"}}, "warning", "another program", "kshot serve --http"),
    ],
)
def test_the_page_must_reach_its_server(
    http: ThreadingHTTPServer, said: dict[str, object], state: str, found: str, remedy: str
) -> None:
    cast(Any, http).said = said

    checked = check_http("127.0.0.1", http.server_port, Credentials(), named=True, timeout=60)

    assert checked.state == state
    assert found in checked.found
    assert remedy in checked.remedy


def test_an_http_port_is_missed_where_it_is_named() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        place = unheard.getsockname()

        checked = check_http(*place, Credentials(), named=True, timeout=60)
        unnamed = check_http(*place, Credentials(), named=False, timeout=60)

    assert (checked.state, unnamed.state) == ("problem", "ok")
    assert "kshot serve --http" in checked.remedy


def test_a_certificate_of_others_is_named() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    roots = authority.cert_pem.bytes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        cast(Any, serving).said = KSHOT
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
        serving.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust it leaves
        thread = Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        place = ("127.0.0.1", serving.server_port)
        known = check_http(*place, Credentials(tls=True, roots=roots), named=True, timeout=60)
        unknown = check_http(*place, Credentials(), named=True, timeout=60)
        serving.shutdown()
        thread.join()

    assert (known.state, unknown.state) == ("ok", "problem")
    assert "--ca" in unknown.remedy


def test_a_module_beside_the_user_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounds_like_torch.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert "No module named" in str(installation._ask("import sounds_like_torch; print('{}')"))


def test_a_store_that_is_none_is_a_problem(tmp_path: Path) -> None:
    assert check_folder_of_store(tmp_path / "none").state == "ok"

    found = check_folder_of_store(tmp_path)

    assert found.state == "problem"
    assert "kshot store check" in found.remedy


def test_the_worst_finding_decides() -> None:
    assert worst([]) == "ok"
    assert worst([Finding("a", "problem", ""), Finding("b", "warning", "")]) == "problem"
