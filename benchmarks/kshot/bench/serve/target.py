"""The server that a bench measures: one that runs already, or one of the bench's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kshot.bench.report import say
from kshot.bench.serve.server_process import ServerProcess, running_server
from kshot.bench.serve.usage import Cpu, cpu_of, proc_there
from kshot.bundle import Bundle
from kshot.client import Capabilities, Client

# A bench may make more adapted models than a server keeps by default.
_ROOM = ("--max-adapted-models", "1000000", "--max-adapted-bytes", str(2**50))


@dataclass(frozen=True)
class Target:
    """Where a server is, what it says of itself, and its process where it is our own."""

    address: str
    capabilities: Capabilities
    process: ServerProcess | None

    def check(self) -> None:
        """Raise ``ClickException`` when it is our own and has ended."""
        if self.process is not None:
            self.process.check()

    def cpu(self) -> Cpu | None:
        """Return what it has computed so far, where it is our own and the system tells."""
        return cpu_of(self.process) if self.process is not None and proc_there() else None

    def document(self) -> dict[str, object]:
        """Lay out for JSON what it says of itself."""
        return {
            "address": self.address,
            "own": self.process is not None,
            "version": self.capabilities.server_version,
            "device": self.capabilities.device,
            "device_name": self.capabilities.device_name,
            "compute_path": self.capabilities.compute_path,
        }


@contextmanager
def running_target(address: str) -> Iterator[Target]:
    """Use a server that runs; raises ``KshotError`` when none answers."""
    with Client(address) as client:
        capabilities = client.capabilities()
    yield Target(address, capabilities, None)


@contextmanager
def own_target(bundle: Bundle, device: str) -> Iterator[Target]:
    """Run a server of our own around a block."""
    say(f"starting a server of {bundle.manifest.name}")
    with running_server(bundle.path, device, _ROOM) as process:
        with Client(process.address) as client:
            capabilities = client.capabilities()
        yield Target(process.address, capabilities, process)
