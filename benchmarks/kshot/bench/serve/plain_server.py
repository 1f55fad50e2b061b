"""Plain gRPC servers in processes of their own, which a server of kshot is compared to."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import click

from kshot.client.commands.options import Server


@dataclass(frozen=True)
class PlainServer:
    """A running plain server: its loopback address and its process id."""

    address: str
    pid: int

    @property
    def endpoint(self) -> Server:
        """Return how to connect, whatever the environment says of other servers."""
        return Server(self.address, tls=False)


@contextmanager
def running_plain_server(
    module: str, arguments: Sequence[str] = (), given: bytes = b""
) -> Iterator[PlainServer]:
    """Run a module that prints its port around a block, with bytes on its stdin.

    Raises `ClickException` when it ends without a port.
    """
    process = subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        process.stdin.write(given)
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            raise click.ClickException(f"{module} ended with exit code {process.wait()}")
        yield PlainServer(f"127.0.0.1:{int(line)}", process.pid)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
