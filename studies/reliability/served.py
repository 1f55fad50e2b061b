"""A `kshot serve` that a proof kills and starts again, on one port and one store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kshot.bench.serve.process_usage import resident_bytes

_STOP_SECONDS = 60.0
_SETTLE_SECONDS = 120.0


class ServerEndedError(Exception):
    """The server did not start, or ended by itself."""


@dataclass
class Served:
    """A server and what it leaves: `store` and `log` are in `folder`.

    `path` is its PATH; empty, it finds no compiler and takes plain steps at once.
    """

    folder: Path
    bundles: Sequence[Path] | Sequence[str]
    flags: Sequence[str] = ()
    path: str = ""
    address: str = field(default_factory=lambda: f"127.0.0.1:{_free_port()}")
    process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> Path:
        """Return the file with its log lines."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Return the front's process id."""
        if self.process is None:
            raise ServerEndedError("the server does not run")
        return self.process.pid

    def start(self) -> None:
        """Start and wait until it is ready; raise `ServerEndedError` when it ends instead."""
        command = [sys.executable, "-P", "-m", "kshot", "serve", "--listen", self.address]
        for bundle in self.bundles:
            command += ["--bundle", str(bundle)]
        command += ["--store", str(self.folder / "store"), "--device", "cpu", *self.flags]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603 -- our own command
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the proof alone, which stops the server
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PATH": self.path, "CXX": ""}
                | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.wait()
            raise ServerEndedError(f"the server did not start: {self.last_lines()}")
        self.address = json.loads(line)["grpc"]

    def settle(self) -> None:
        """Wait until it has as many engines as it will have."""
        if os.environ.get("KSHOT_ENGINES", "auto") == "auto":
            wait_until(lambda: "engines_chosen" in self.log.read_text(), _SETTLE_SECONDS)

    def stop(self) -> int:
        """Stop as an orchestrator does; return the exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        return self._end(_STOP_SECONDS)

    def kill(self) -> None:
        """End the front by SIGKILL, at once."""
        if self.process is not None:
            self.process.kill()
            self._end(_STOP_SECONDS)

    def engine_pids(self) -> list[int]:
        """Return the process ids of its engines."""
        return [pid for pid in _children(self.pid) if "kshot.engine" in _command(pid)]

    def check(self) -> None:
        """Raise `ServerEndedError` when the front has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            raise ServerEndedError(f"the server ended with exit code {code}: {self.last_lines()}")

    def last_lines(self, count: int = 3) -> str:
        """Return the last lines of the log."""
        return " | ".join(self.log.read_text().splitlines()[-count:])

    def log_entries(self) -> list[dict[str, object]]:
        """Return the log's lines; one that is no entry has its `text` alone."""
        return [_entry(line) for line in self.log.read_text().splitlines()]

    def _end(self, seconds: float) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        try:
            code = process.wait(seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        return code


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """Run a server around a block; it may be killed and started again inside."""
    served.start()
    try:
        yield served
    finally:
        served.stop()


@dataclass(frozen=True)
class Usage:
    """What the processes of a server hold."""

    front_bytes: int
    engine_bytes: int
    descriptors: int
    threads: int


def usage_of(served: Served) -> Usage:
    """Read what a server's processes hold now, from Linux's /proc."""
    pids = [served.pid, *served.engine_pids()]
    return Usage(
        resident_bytes(pids[0]),
        sum(map(resident_bytes, pids[1:])),
        sum(_entries(pid, "fd") for pid in pids),
        sum(_entries(pid, "task") for pid in pids),
    )


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition comes true within some seconds."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill(pid: int) -> None:
    """Send SIGKILL to a process, unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            yield from map(int, (thread / "children").read_text().split())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _entries(pid: int, name: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{name}").iterdir())


def _entry(line: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        entry = None
    return entry if isinstance(entry, dict) else {"event": "", "text": line}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
