"""A server that is back is found at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from kshot.client import Client, InputError, UnavailableError
from kshot.client.connection.channel import channel_options
from kshot.client.connection.connection import Connection
from tests.ports import free_port


def test_attempts_to_connect_follow_closely() -> None:
    """By gRPC's own options a long outage costs up to two minutes more."""
    options = dict(channel_options("localhost"))

    assert options["grpc.max_reconnect_backoff_ms"] == 1000
    assert options["grpc.use_local_subchannel_pool"] == 1


def test_clients_find_a_server_that_is_back(
    listen: Callable[[int], AbstractContextManager[str]],
) -> None:
    """One that knows the outage, and a new one."""
    port = free_port()
    with listen(port) as address, Client(address) as client:
        client.capabilities()
    with Client(address) as client:
        for _ in range(3):
            with pytest.raises(UnavailableError, match="nothing listens there"):
                client.capabilities()
        with listen(port), Client(address) as new:
            began = time.monotonic()
            assert new.capabilities().server_version == "1.2.3"
            while True:
                try:
                    client.capabilities()
                    break
                except UnavailableError:
                    assert time.monotonic() - began < 60  # seconds, on a busy machine


def test_an_unknown_host_is_looked_up_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name may come with the server, as that of a container does."""
    opened = list[str]()
    with Client("no..name:50051") as client:
        with pytest.raises(UnavailableError, match="there is no host of this name"):
            client.capabilities()
        monkeypatch.setattr(Connection, "connect", lambda _self: opened.append("again"))
        with pytest.raises(UnavailableError):
            client.capabilities()
        client.close()
        with pytest.raises(InputError, match="closed"):
            client.capabilities()

    assert opened == ["again"]
