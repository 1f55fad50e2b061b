"""A `kshot serve` of one's own: a free loopback port, a temporary store, an end in any case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

_LOG = "log"
_STORE = "store"
# A server drains for at most so long by default, and its engine takes a few seconds more.
_STOP_SECONDS = 60.0
# So many lines tell why a server did not start.
_LAST_WORDS = 2


@dataclass(frozen=True)
class ServerProcess:
    """A running server: its address, its process, and the folder with its store and log."""

    address: str
    process: subprocess.Popen[str]
    folder: Path

    @property
    def store(self) -> Path:
        """Return the folder that keeps adapted models."""
        return self.folder / _STORE

    @property
    def front_pid(self) -> int:
        """Return the process id of the front."""
        return self.process.pid

    @property
    def engine_pid(self) -> int:
        """Return the process id of the engine that was connected last, as the log tells."""
        entries = (_entry(line) for line in (self.folder / _LOG).read_text().splitlines())
        pids = [entry["pid"] for entry in entries if entry.get("event") == "engine_connected"]
        return int(str(pids[-1]))

    def check(self) -> None:
        """Raise ``ClickException`` when the server has ended by itself."""
        code = self.process.poll()
        if code is not None:
            raise click.ClickException(
                f"the server ended with exit code {code}{_last_words(self.folder / _LOG)}"
            )


@contextmanager
def running_server(
    bundle: Path, device: str = "auto", flags: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Run `kshot serve` around a block and stop it as an orchestrator would, by SIGTERM.

    It takes its other settings from the environment, as any server does. Raises
    ``ClickException`` with the server's last words when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="kshot-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-P", "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
        command += ["--bundle", str(bundle), "--device", device, *flags]
        with (folder / _LOG).open("w") as log:
            process = subprocess.Popen(  # noqa: S603 -- our own command
                [*command, "--store", str(folder / _STORE)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C in a terminal is for us: we stop the server when our calls have ended.
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            yield ServerProcess(_wait_until_ready(process, folder), process, folder)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[str], folder: Path) -> str:
    """Return the address that the server announces when it can adapt."""
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        process.wait()
        raise click.ClickException(f"the server did not start{_last_words(folder / _LOG)}")
    return str(json.loads(line)["grpc"])


def _stop(process: subprocess.Popen[str]) -> None:
    try:
        process.terminate()
        process.wait(_STOP_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, so that nothing is left behind."""

    def interrupt(_number: int, frame: FrameType | None) -> None:
        on_interrupt = signal.getsignal(signal.SIGINT)
        if callable(on_interrupt):
            on_interrupt(signal.SIGINT, frame)
        else:  # a shell lets what runs in the background ignore Ctrl-C
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_words(log: Path) -> str:
    """Return, after a colon, why a server or its engine says that it ends."""
    words = []
    for line in log.read_text().splitlines():
        entry = _entry(line)
        words.append(str(entry.get("reason", "")) if entry else line.removeprefix("kshot: "))
    return "".join(f": {line}" for line in list(filter(None, words))[-_LAST_WORDS:])


def _entry(line: str) -> dict[str, object]:
    """Read a line of a server's log; what is none, or is cut off, gives nothing."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) else {}
