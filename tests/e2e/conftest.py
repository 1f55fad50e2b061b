import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from kshot.bundle import Bundle, builtin_bundle, load_bundle
from kshot.client import Client

StartServer = Callable[..., AbstractContextManager["Server"]]


@dataclass(frozen=True)
class Server:
    """A running `kshot serve`: its process, its address and the file with its log lines."""

    process: "subprocess.Popen[str]"
    address: str
    log: Path

    def engine_pid(self) -> int:
        """Return the newest engine's process id, from the log."""
        entries = (json.loads(line) for line in self.log.read_text().splitlines())
        return int([e["pid"] for e in entries if e["event"] == "engine_connected"][-1])

    def stop(self) -> int:
        """Stop as an orchestrator does; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def running_server(path: str, store: Path, log: Path, *options: str) -> Iterator[Server]:
    """Run `kshot serve` until the block ends: `omniglot` unless options name another bundle.

    `path` is its PATH.
    """
    command = [sys.executable, "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
    command += [] if "--bundle" in options else ["--bundle", "omniglot"]
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [*command, "--store", str(store), "--device", "cpu", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        try:
            yield Server(process, json.loads(line)["grpc"], log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(timeout=60)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return load_bundle(builtin_bundle("omniglot"))


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, path_without_compiler: str
) -> Iterator[Server]:
    """A server that tests share; none of them may hurt it."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(path_without_compiler, folder / "store", folder / "log") as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="session")
def start_server(path_without_compiler: str) -> StartServer:
    """Start servers of one's own: `with start_server(store, log, *options) as server`."""
    return partial(running_server, path_without_compiler)


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=120) as client:
        yield client
