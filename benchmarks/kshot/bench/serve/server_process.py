"""A `kshot serve` as a child process, on a free loopback port with a temporary store."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from kshot.bench.report import say
from kshot.bench.serve.process_usage import Cpu, Memory, cpu_ms, has_proc, resident_bytes
from kshot.client import Capabilities, Client
from kshot.client.commands.options import Server

_LOG = "log"
_ENGINES, _AUTO = "KSHOT_ENGINES", "auto"
_SETTLE_SECONDS = 1200.0
# A bench may make more adapted models than a server keeps by default.
ROOMY = ("--max-adapted-models", "1000000", "--max-adapted-bytes", str(2**50))
_STORE = "store"
# The default grace period, and a few seconds for the engine.
_STOP_SECONDS = 60.0
# Lines of the log in the error about a server that ended.
_LAST_LINES = 2
# Settings of a server for others; the bench's own is on loopback, and alone.
_NOT_OURS = {
    "KSHOT_TLS_CERT",
    "KSHOT_TLS_KEY",
    "KSHOT_CLIENT_CA",
    "KSHOT_ACCESS",
    "KSHOT_AUDIT_LOG",
}


@dataclass(frozen=True)
class ServerProcess:
    """A running server: its address, its process, and the folder of its store and its log.

    `engines` is how many it was told to have, None where the environment or the server decides.
    """

    address: str
    process: subprocess.Popen[str]
    folder: Path
    engines: int | None = None

    @property
    def endpoint(self) -> Server:
        """Return how to connect, whatever the environment says of other servers."""
        return Server(self.address, tls=False)

    @property
    def store(self) -> Path:
        """Return the folder of adapted models."""
        return self.folder / _STORE

    @property
    def engine_pids(self) -> list[int]:
        """Return the process ids of the engines that are connected, by the log."""
        pids: list[int] = []
        for entry in self._entries():
            pid = int(str(entry.get("pid", 0)))
            if entry.get("event") == "engine_connected":
                pids.append(pid)
            elif entry.get("event") == "engine_ended" and pid in pids:
                pids.remove(pid)
        return pids

    @property
    def settled(self) -> bool:
        """Tell whether the server has as many engines as it will have."""
        if self.engines is not None:
            return len(self.engine_pids) >= self.engines
        chosen = os.environ.get(_ENGINES, _AUTO) != _AUTO
        return chosen or any(entry.get("event") == "engines_chosen" for entry in self._entries())

    def _entries(self) -> list[dict[str, object]]:
        return [_entry(line) for line in (self.folder / _LOG).read_text().splitlines()]

    def check(self) -> None:
        """Raise `ClickException` when the server has ended by itself."""
        code = self.process.poll()
        if code is not None:
            raise click.ClickException(
                f"the server ended with exit code {code}{_last_reasons(self.folder / _LOG)}"
            )

    def memory(self) -> Memory:
        """Read the memory of its processes; raises `ClickException` when it has ended."""
        self.check()
        engines = sum(map(resident_bytes, self.engine_pids))
        return Memory(resident_bytes(self.process.pid), engines)

    def cpu(self) -> Cpu | None:
        """Read the processor time of its processes; None without /proc."""
        if not has_proc():
            return None
        return Cpu(cpu_ms(self.process.pid), sum(map(cpu_ms, self.engine_pids)))


@contextmanager
def running_server(
    bundle: Path | None,
    device: str = "auto",
    flags: Sequence[str] = (),
    *,
    engines: int | None = None,
    compiling: bool = True,
) -> Iterator[ServerProcess]:
    """Run `kshot serve` around a block and stop it by SIGTERM, as an orchestrator does.

    Without a bundle it serves its defaults. Unless it is `compiling`, it finds no compiler and only
    uses inner steps that were compiled before, in one engine. It takes its other settings from the
    environment.
    Raises `ClickException` with the reason from the server's log when it does not start.
    """
    hidden = {} if engines is None else {_ENGINES: str(engines)}
    hidden |= {} if compiling else {"PATH": "", "CXX": "", _ENGINES: "1"}
    settings = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    with tempfile.TemporaryDirectory(prefix="kshot-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-P", "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
        command += [] if bundle is None else ["--bundle", str(bundle)]
        command += ["--device", device, *flags]
        with (folder / _LOG).open("w") as log:
            process = subprocess.Popen(  # noqa: S603 -- our own command
                [*command, "--store", str(folder / _STORE)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Ctrl-C in a terminal must reach the bench alone, which then stops the server.
                start_new_session=True,
                env=settings | hidden | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            yield ServerProcess(_wait_until_ready(process, folder), process, folder, engines)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[str], folder: Path) -> str:
    """Return the address that the server prints when it can adapt."""
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        process.wait()
        raise click.ClickException(f"the server did not start{_last_reasons(folder / _LOG)}")
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


def settle(client: Client, own: ServerProcess | None = None) -> Capabilities:
    """Wait until no step is being compiled and an own server has all its engines."""
    capabilities, until, told = client.capabilities(), time.monotonic() + _SETTLE_SECONDS, False
    while capabilities.compiling_step_count or not (own is None or own.settled):
        if not told:
            say("waiting until the server has compiled its steps and chosen its engines")
            told = True
        if time.monotonic() > until:
            raise click.ClickException(
                f"the server still compiles {capabilities.compiling_step_count} steps after "
                f"{_SETTLE_SECONDS:g} seconds; try again when it is done"
            )
        time.sleep(1)
        if own is not None:
            own.check()
        capabilities = client.capabilities()
    return capabilities


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP act as Ctrl-C, so that servers and adapted models are cleaned up."""

    def interrupt(_number: int, frame: FrameType | None) -> None:
        on_interrupt = signal.getsignal(signal.SIGINT)
        if callable(on_interrupt):
            on_interrupt(signal.SIGINT, frame)
        else:  # a shell makes background jobs ignore Ctrl-C
            raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_reasons(log: Path) -> str:
    """Return, after a colon, the last reasons in the log of a server and its engine."""
    reasons = []
    for line in log.read_text().splitlines():
        entry = _entry(line)
        reasons.append(str(entry.get("reason", "")) if entry else line.removeprefix("kshot: "))
    return "".join(f": {line}" for line in list(filter(None, reasons))[-_LAST_LINES:])


def _entry(line: str) -> dict[str, object]:
    """Parse a line of a server's log; another line, or an incomplete one, gives an empty entry."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) else {}
