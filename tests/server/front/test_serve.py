from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kshot.__main__ import main
from kshot.bundle import Bundle
from kshot.server.server import SERVICE
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub

# The command as it is, but for the engine that it starts.
_SERVE = """
import sys
from kshot.__main__ import main
from kshot.server import command
real = command.ServerConfig
command.ServerConfig = lambda **given: real(engine_command=(sys.executable, {engine!r}), **given)
sys.exit(main(["serve", *{arguments!r}]))
"""
# A network that never answers.
_HANG = """
import os, threading
from pathlib import Path
from kshot.server.predict import predictor
def hang(*_arguments):
    Path(os.environ["KSHOT_FAKE_ENGINE_PIPES"], "arrived").write_text("here")
    threading.Event().wait()
predictor._run = hang
"""
FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
Refused = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def serving(
    *arguments: str, before: str = "", stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    script = before + _SERVE.format(engine=str(FAKE_ENGINE), arguments=list(arguments))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def serve(bundle: Bundle, store: Path, *arguments: str, **how: Any) -> Any:  # noqa: ANN401 -- a context of a process
    where = ("--bundle", str(bundle.path), "--store", str(store), "--listen", "127.0.0.1:0")
    return serving(*where, *arguments, **how)


def ready_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    ready: dict[str, Any] = json.loads(line)
    return ready


def kshot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kshot", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs the command in this process, where it does not start a server."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        root = logging.getLogger()
        level = root.level
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(root, "handlers", [])  # the command sends all records to stderr
            code = main(["serve", *arguments])
        root.setLevel(level)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def support_set() -> wire.SupportSet:
    tensor = wire.Tensor(datatype="UINT8", shape=[2, 4, 4], data=bytes(range(0, 256, 8)))
    return wire.SupportSet(
        images=wire.Images(tensor=tensor), class_indices=[0, 1], class_names=["a", "b"]
    )


@pytest.mark.parametrize("full", [True, False])
def test_a_ready_line_that_nobody_reads_does_not_stop_the_server(
    tiny_bundle: Bundle, tmp_path: Path, full: bool
) -> None:
    """Its reader has gone, or never reads a pipe that is full; the log has the event too."""
    read, write = os.pipe()
    if full:
        os.write(write, b"." * fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))
    else:
        os.close(read)
    with serve(tiny_bundle, tmp_path / "s", stdout=write) as process:
        os.close(write)
        events = (json.loads(line) for line in process.stderr)
        ready = next(event for event in events if event["event"] == "ready")
        with grpc.insecure_channel(ready["grpc"]) as channel:
            AdaptationServiceStub(channel).Adapt(
                wire.AdaptRequest(model="tiny", support_set=support_set()), timeout=30
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in process.stderr.read()
    if full:
        os.close(read)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_says_ready_answers_and_stops(
    tiny_bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    with serve(tiny_bundle, tmp_path / "s") as process:
        ready = ready_line(process)
        with grpc.insecure_channel(ready["grpc"]) as channel:
            for name in ("", SERVICE):
                health = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=name), timeout=30
                )
                assert health.status == health_pb2.HealthCheckResponse.SERVING
            AdaptationServiceStub(channel).Adapt(
                wire.AdaptRequest(model="tiny", support_set=support_set()), timeout=30
            )
            process.send_signal(number)
            output, log = process.communicate(timeout=60)

    assert ready["event"] == "ready"
    assert ready["models"] == ["tiny"]
    assert process.returncode == 0
    assert output == ""
    events = [json.loads(line)["event"] for line in log.splitlines()]
    started = ["engine_starting", "engine_connected", "ready"]
    assert events == [*started, "request", "stopping", "stopped"]


def test_a_server_under_nohup_outlives_its_terminal(tiny_bundle: Bundle, tmp_path: Path) -> None:
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with serve(tiny_bundle, tmp_path / "s", before=ignore) as process:
        ready = ready_line(process)
        process.send_signal(signal.SIGHUP)
        with grpc.insecure_channel(ready["grpc"]) as channel:
            request = wire.AdaptRequest(model="tiny", support_set=support_set())
            assert AdaptationServiceStub(channel).Adapt(request, timeout=30).adapted_model.id


def test_what_a_killed_server_left_is_removed_at_the_next_start(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Front and engine are killed together; a server that runs beside keeps its folder."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # sockets want short paths
        monkeypatch.setenv("TMPDIR", place)
        with (
            serve(tiny_bundle, tmp_path / "a") as killed,
            serve(tiny_bundle, tmp_path / "b") as other,
        ):
            ready_line(other)
            ready_line(killed)
            assert killed.stderr is not None
            (engine,) = (
                entry["pid"]
                for entry in map(json.loads, itertools.islice(killed.stderr, 2))
                if entry["event"] == "engine_connected"
            )
            os.kill(engine, signal.SIGSTOP)  # it cannot clean up
            killed.kill()
            killed.wait()
            os.kill(engine, signal.SIGKILL)
            assert len(list(Path(place).glob("kshot-*"))) == 2

            with serve(tiny_bundle, tmp_path / "a") as again:
                ready_line(again)
                assert len(list(Path(place).glob("kshot-*"))) == 2
                assert other.poll() is None


def test_a_stop_before_the_engine_is_ready_is_a_stop(
    tiny_bundle: Bundle,
    tmp_path: Path,
    wait_arrival: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KSHOT_FAKE_ENGINE_START", "never")
    with serve(tiny_bundle, tmp_path / "s") as process:
        wait_arrival()
        process.terminate()
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert output == ""


@pytest.mark.parametrize(("grace", "signals"), [("0.2", 1), ("1000", 2)])
def test_a_hanging_thread_does_not_block_a_stop(
    tiny_bundle: Bundle,
    tmp_path: Path,
    wait_arrival: Callable[[], str],
    grace: str,
    signals: int,
) -> None:
    with (
        serve(tiny_bundle, tmp_path / "s", "--drain-grace", grace, before=_HANG) as process,
        grpc.insecure_channel(ready_line(process)["grpc"]) as channel,
    ):
        stub = AdaptationServiceStub(channel)
        made = stub.Adapt(wire.AdaptRequest(model="tiny", support_set=support_set()), timeout=30)
        hanging = stub.Predict.future(
            wire.PredictRequest(adapted_model=made.adapted_model.id, queries=support_set().images)
        )
        wait_arrival()
        process.terminate()
        while json.loads(process.stderr.readline())["event"] != "stopping":
            pass
        if signals == 2:
            process.terminate()
        log = process.communicate(timeout=30)[1]
        assert hanging.exception(timeout=30) is not None

    assert process.returncode == 0
    assert json.loads(log.splitlines()[-1])["event"] == "stopped"


def test_what_was_acknowledged_survives_sigkill(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with (
        serve(tiny_bundle, tmp_path / "s") as process,
        grpc.insecure_channel(ready_line(process)["grpc"]) as channel,
    ):
        made = (
            AdaptationServiceStub(channel)
            .Adapt(wire.AdaptRequest(model="tiny", support_set=support_set()), timeout=30)
            .adapted_model
        )
        process.kill()
        process.wait()

    with (
        serve(tiny_bundle, tmp_path / "s") as process,
        grpc.insecure_channel(ready_line(process)["grpc"]) as channel,
    ):
        stub = AdaptationServiceStub(channel)
        got = stub.GetAdaptedModel(wire.GetAdaptedModelRequest(adapted_model=made.id), timeout=30)
        answer = stub.Predict(
            wire.PredictRequest(adapted_model=made.id, queries=support_set().images),
            timeout=30,
        )

    assert got.adapted_model == made
    assert [item.class_name for item in answer.predictions] == ["a", "b"]


def test_a_second_server_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with serve(tiny_bundle, tmp_path / "s") as process:
        address = ready_line(process)["grpc"]
        bundle = ("--bundle", str(tiny_bundle.path))

        store = kshot(*bundle, "--store", str(tmp_path / "s"), "--listen", "127.0.0.1:0")
        port = kshot(*bundle, "--store", str(tmp_path / "t"), "--listen", address)

    for done in (store, port):
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1  # without gRPC's own
    assert store.stderr.startswith("kshot: ")
    assert port.stderr.startswith(f"kshot: listen: port {address.rpartition(':')[2]} of 127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["--listen", "0.0.0.0:0"], 2, "--insecure", id="an open address"),
        pytest.param(["--listen", "127.0.0.1"], 2, "HOST:PORT", id="no port"),
        pytest.param(["--listen", "127.0.0.1:99999"], 2, "HOST:PORT", id="no such port"),
        pytest.param(["--device", "tpu"], 2, "tpu", id="an unknown device"),
        pytest.param(["--max-adapt-queue", "0"], 2, "max_adapt_queue", id="no queue"),
        pytest.param(["--max-adapt-queue", "x"], 2, "--max-adapt-queue", id="no number"),
        pytest.param(
            ["--max-message-bytes", "3000000000"],
            2,
            "max_message_bytes: expected",
            id="too many bytes",
        ),
        pytest.param(["--bundle", "/does/not/exist"], 1, "/does/not/exist", id="no bundle"),
    ],
)
def test_wrong_use_is_one_line(
    refused: Refused,
    tiny_bundle: Bundle,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    bundle = [] if "--bundle" in arguments else ["--bundle", str(tiny_bundle.path)]

    done = refused("--store", str(tmp_path / "s"), *bundle, *arguments)

    assert done.returncode == code
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("kshot: ")


def test_one_version_twice_is_refused(
    refused: Refused, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = str(tiny_bundle.path)

    done = refused("--store", str(tmp_path / "s"), "--bundle", path, "--bundle", path)

    assert done.returncode == 1
    assert "expected distinct versions, got 2 bundles tiny@1" in done.stderr


def test_a_bundle_with_a_changed_byte_is_refused(
    refused: Refused, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "tiny" / "1"
    shutil.copytree(tiny_bundle.path, copy)
    card = copy / "README.md"
    card.write_bytes(b"X" + card.read_bytes()[1:])

    done = refused("--store", str(tmp_path / "s"), "--bundle", str(copy))

    assert done.returncode == 1
    assert "README.md" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_front_never_imports_torch() -> None:
    script = "import sys, kshot.server.command; print('torch' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
