"""A server as a child process: its start, its end, its log."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from kshot.bench.serve.server_process import ServerProcess, interrupted_by_signals, running_server
from kshot.bundle import builtin_bundle
from kshot.client import Client


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_server_lives_as_long_as_its_block() -> None:
    with running_server(builtin_bundle("omniglot"), "cpu") as server:
        server.check()
        with Client(server.address, timeout=60) as client:
            assert list(client.capabilities().models) == ["omniglot"]
        front, (engine,) = server.process.pid, server.engine_pids
        assert running(front)
        assert running(engine)
        assert front != engine
        assert server.store.is_dir()

    assert server.process.returncode == 0  # it drained and left by itself
    assert not running(engine)
    assert not server.folder.exists()


def test_a_failed_start_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(click.ClickException) as caught,
        running_server(tmp_path / "nowhere"),
    ):
        pytest.fail("it started")

    assert caught.value.message == (
        f"the server did not start: {tmp_path}/nowhere: not a directory; "
        "expected NAME/VERSION with manifest.json"
    )


class Stub:
    """A process that is over."""

    returncode = 3

    def poll(self) -> int:
        return self.returncode


def test_an_ended_server_says_why(tmp_path: Path) -> None:
    log = [
        json.dumps({"event": "engine_connected", "pid": 41}),
        json.dumps({"event": "not_started", "reason": "there is no GPU"}),
        "kshot: the engine ended",
    ]
    (tmp_path / "log").write_text("\n".join(log))
    server = ServerProcess("localhost:1", Stub(), tmp_path)  # type: ignore[arg-type]  # enough of a process

    with pytest.raises(click.ClickException) as caught:
        server.check()

    assert caught.value.message == (
        "the server ended with exit code 3: there is no GPU: the engine ended"
    )


def test_engines_are_those_connected_that_have_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log may be read while its last line is written."""
    monkeypatch.setenv("KSHOT_ENGINES", "auto")
    lines = [{"event": "engine_connected", "pid": pid} for pid in (41, 42, 43)]
    lines += [{"event": "engine_ended", "pid": 42}]
    server = ServerProcess("localhost:1", Stub(), tmp_path)  # type: ignore[arg-type]  # enough of a process
    (tmp_path / "log").write_text("\n".join([*map(json.dumps, lines), '{"event": "engine_conn']))

    assert server.engine_pids == [41, 43]
    assert not server.settled
    assert [replace(server, engines=count).settled for count in (2, 3)] == [True, False]

    (tmp_path / "log").write_text('{"event": "engines_chosen"}')
    assert server.settled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        signal.raise_signal(number)

    assert signal.getsignal(number) is before


def test_signals_interrupt_a_background_job() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_bench_stops_its_server() -> None:
    """SIGTERM in the middle of a load: the server is told to leave and is waited for."""
    command = [sys.executable, "-m", "kshot", "bench", "serve", "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--seconds", "600", "--concurrency", "2", "--step-count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as bench:
        assert bench.stderr is not None
        said = next((line for line in bench.stderr if "closed loop" in line), "")
        assert said
        children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children").read_text().split()
        assert len(children) == 1

        bench.send_signal(signal.SIGTERM)
        output, errors = bench.communicate(timeout=120)

    assert bench.returncode == 130
    assert output == ""
    assert errors.strip() == "kshot: interrupted"
    assert not running(int(children[0]))
