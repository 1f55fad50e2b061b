"""Servers of this process alone: `kshot serve` as a child, which ends with its parent."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import IO, Self

from kshot.client.errors import InputError, UnavailableError
from kshot.client.values import check_path

_EXTRAS = "server,engine,cpu"
_NEEDS = ("grpc_health", "grpc_reflection", "onnx", "onnxruntime", "safetensors", "torch")
# Other variables of a server belong to one that others may reach.
_KEPT = {
    "KSHOT_BUNDLE",
    "KSHOT_CACHE",
    "KSHOT_DEVICE",
    "KSHOT_ENGINES",
    "KSHOT_REPOSITORY",
}
_START_SECONDS = 180.0
_STOP_SECONDS = 5.0
_MOST_LINES = 30  # of a log, in an error

_lock = threading.Lock()
_running: dict[tuple[str, ...], PrivateServer] = {}


class PrivateServer:
    """A `kshot serve` on a free port of loopback, with a temporary store and a key of its own.

    `api_key` is the only key that it lets in. It ends when its standard input closes: with this
    process at the latest, however that ends.
    """

    def __init__(self, bundles: tuple[str, ...]) -> None:
        """Start it and wait until it can adapt; raise `InputError` or `UnavailableError`."""
        missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            from kshot.local.extras import pip_install  # needs what most programs do not

            raise InputError(
                f"a local server needs {', '.join(missing)}, not installed here: "
                f"{pip_install(_EXTRAS)}; or give the address of a server"
            )
        self._users = 0
        self._bundles = bundles
        command = [sys.executable, "-P", "-m", "kshot", "serve", "--private"]
        command += ["--listen", "127.0.0.1:0", "--log-level", "warning"]
        for bundle in bundles:
            command += ["--bundle", bundle]
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KSHOT_") or name in _KEPT
        }
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            self._process = subprocess.Popen(  # noqa: S603 -- our own command
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the program, which ends the server
                env=kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            try:
                ready = self._await_ready(log)
            except BaseException:
                self.end()
                raise
        self.address, self.api_key = ready["grpc"], ready["api_key"]

    def _await_ready(self, log: IO[str]) -> dict[str, str]:
        """Return the ready event, which is the one line of standard output."""
        assert self._process.stdout is not None  # noqa: S101 -- it is a pipe
        timer = threading.Timer(_START_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line:
            ready: dict[str, str] = json.loads(line)
            return ready
        code = self._process.wait()
        log.seek(0)
        said = log.read().strip().splitlines()[-_MOST_LINES:] or [f"exit code {code}"]
        # The last line may speak of those above it, such as the engine's.
        words = said[0].removeprefix("kshot: ") if len(said) == 1 else "\n".join(["", *said])
        raise UnavailableError(f"the local server did not start: {words}")

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def acquire(self) -> Self:
        """Count another user."""
        self._users += 1
        return self

    def release(self) -> None:
        """Count one user less; the last one ends the server."""
        with _lock:
            self._users -= 1
            if self._users > 0:
                return
            if _running.get(self._bundles) is self:
                del _running[self._bundles]
        self.end()

    def end(self) -> None:
        """End the process: kindly, then at once."""
        self.let_go()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def let_go(self) -> None:
        """Close the pipes, the first of which lets the server end once no process has it open."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def private_server(bundles: Sequence[str | os.PathLike[str]] = ()) -> PrivateServer:
    """Return the server of this process for these bundles, started by the first who asks.

    Its callers count: each has to `release` it. Raises as `PrivateServer` does.
    """
    if isinstance(bundles, str | os.PathLike):
        raise InputError(f"bundles: expected a sequence of names or folders, got {bundles!r}")
    names = tuple(str(check_path("bundles", bundle)) for bundle in bundles)
    _watch()
    with _lock:
        server = _running.get(names)
        if server is None or not server.alive:
            server = _running[names] = PrivateServer(names)
        return server.acquire()


@cache
def _watch() -> None:
    """End the servers at the interpreter's exit; a child that is forked has none of them."""
    atexit.register(_end_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)


def _end_all() -> None:
    with _lock:
        servers = list(_running.values())
        _running.clear()
    for server in servers:
        server.let_go()
    for server in servers:
        server.end()


def _forget_all() -> None:
    global _lock  # another thread of the parent may hold it
    _lock = threading.Lock()
    for server in _running.values():
        server.let_go()
    _running.clear()
