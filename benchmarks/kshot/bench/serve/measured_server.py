"""The server that a bench measures: one that already runs, or the bench's own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kshot.bench.report import say
from kshot.bench.serve.process_usage import Cpu
from kshot.bench.serve.server_process import ServerProcess, running_server
from kshot.bundle import Bundle
from kshot.client import Capabilities, Client

# A bench may make more adapted models than a server keeps by default.
_LIMITS = ("--max-adapted-models", "1000000", "--max-adapted-bytes", str(2**50))


@dataclass(frozen=True)
class MeasuredServer:
    """A server's address, its capabilities, and its process where it is the bench's own."""

    address: str
    capabilities: Capabilities
    process: ServerProcess | None

    def check(self) -> None:
        """Raise `ClickException` when it is the bench's own and has ended."""
        if self.process is not None:
            self.process.check()

    def cpu(self) -> Cpu | None:
        """Return its processor time; None for another's server, or without /proc."""
        has_proc = Path(f"/proc/{os.getpid()}/stat").exists()
        return self.process.cpu() if self.process is not None and has_proc else None

    def document(self) -> dict[str, object]:
        """Return its description for JSON."""
        return {
            "address": self.address,
            "own": self.process is not None,
            "version": self.capabilities.server_version,
            "device": self.capabilities.device,
            "device_name": self.capabilities.device_name,
            "compute_path": self.capabilities.compute_path,
        }


@contextmanager
def other_server(address: str) -> Iterator[MeasuredServer]:
    """Measure a server that already runs; raises `KshotError` when none answers."""
    with Client(address) as client:
        capabilities = client.capabilities()
    yield MeasuredServer(address, capabilities, None)


@contextmanager
def own_server(bundle: Bundle, device: str) -> Iterator[MeasuredServer]:
    """Run a server of the bench's own around a block."""
    say(f"starting a server of {bundle.manifest.name}")
    with running_server(bundle.path, device, _LIMITS) as process:
        with Client(process.address) as client:
            capabilities = client.capabilities()
        yield MeasuredServer(process.address, capabilities, process)
