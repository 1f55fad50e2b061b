"""A server of this environment, for as long as a block runs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Start `kshot serve` on a free port, yield its address, stop it and check its exit code."""
    with tempfile.TemporaryDirectory(prefix="kshot-demo-") as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
        command += ["--store", str(Path(folder) / "store")]
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
        ):
            try:
                yield wait_until_ready(server, log)
            finally:
                code = stop(server)
        if code != 0:
            raise SystemExit(f"the server ended with exit code {code}:\n{log.read_text()[-2000:]}")


def stop(server: subprocess.Popen[str]) -> int:
    """Stop a server, by force when it does not end in time; return its exit code."""
    server.send_signal(signal.SIGTERM)
    try:
        return server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def wait_until_ready(server: subprocess.Popen[str], log: Path) -> str:
    """Read the server's events until it is ready; return its address."""
    assert server.stdout is not None  # noqa: S101 -- Popen was told to make a pipe
    timer = threading.Timer(START_TIMEOUT_S, server.kill)
    timer.start()
    try:
        for line in server.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                return str(event["grpc"])
    finally:
        timer.cancel()
    raise SystemExit(f"the server did not become ready:\n{log.read_text()[-2000:]}")
