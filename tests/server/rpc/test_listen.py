"""A server listens at all addresses of its host, or it says why not."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import grpc
import pytest

from kshot.server.errors import StartError
from kshot.server.rpc import listen as module
from kshot.server.rpc.listen import listen

ALL = "0.0.0.0"  # noqa: S104 -- bound for a moment


def tried(host: str, port: int, then: Callable[[int], None] = lambda _: None) -> int:
    """Listen with a server of its own, look at it, and close it; return the port."""

    async def run() -> int:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        try:
            found = listen(server, host, port)
            await server.start()
            await asyncio.to_thread(then, found)
            return found
        finally:
            await server.stop(None)

    return asyncio.run(run())


def open_at(address: str, port: int) -> bool:
    """Tell whether something listens there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex((address, port)) == 0


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("host", ["localhost", ALL, "[::]"])
def test_one_taken_address_refuses_all(
    host: str, taken: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """gRPC would take the other family alone, and say nothing or log a line of its own."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.socket(family) as other:
        other.bind((taken, 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(StartError, match=rf"port {port} of .* is taken; .* another port"):
            tried(host, port)

    assert capfd.readouterr().err == ""


def test_a_name_listens_at_all_its_addresses() -> None:
    def look(port: int) -> None:
        assert open_at("127.0.0.1", port)
        assert open_at("::1", port)

    assert tried("localhost", 0, look) > 0
    tried("LOCALHOST", 0, look)
    tried(ALL, 0, look)
    tried("[::1]", 0, lambda port: None if open_at("::1", port) else pytest.fail())


def test_an_address_that_the_machine_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without IPv6, `localhost` is 127.0.0.1."""
    bound = module._bound

    def without_ipv6(address: str, port: int) -> socket.socket:
        if ":" in address:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return bound(address, port)

    monkeypatch.setattr(module, "_bound", without_ipv6)

    tried("localhost", 0, lambda port: None if open_at("127.0.0.1", port) else pytest.fail())


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("no-such-host.invalid", "no-such-host.invalid does not resolve"),
        ("a..b", "a..b does not resolve"),
        ("192.0.2.1", "192.0.2.1 is not an address of this machine"),
        ("[2001:db8::1]", "is not an address of this machine"),
    ],
)
def test_a_host_of_others_is_refused(host: str, said: str) -> None:
    with pytest.raises(StartError, match=said):
        tried(host, 0)


def test_a_port_that_needs_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "_bound", refused)

    with pytest.raises(StartError, match=r"port 80 needs rights .* 1024 to 65535"):
        tried("127.0.0.1", 80)


def test_a_port_free_at_one_address_only_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With port 0 another one is picked, and not for ever."""
    bound = module._bound
    tries: list[str] = []

    def taken_at_first(address: str, port: int) -> socket.socket:
        tries.append(address)
        if ":" in address and len(tries) < 4:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return bound(address, port)

    monkeypatch.setattr(module, "_bound", taken_at_first)

    tried("localhost", 0, lambda port: None if open_at("::1", port) else pytest.fail())

    assert tries == ["127.0.0.1", "::1"] * 2
