"""The clients that classifiers of one process share."""

from __future__ import annotations

import pytest

from kshot.client import Client, InputError
from kshot.client.estimator import shared_client
from kshot.client.estimator.shared_client import Lease


@pytest.fixture
def local_address(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the small server of these tests be the local one; other tests may have left theirs."""
    monkeypatch.setattr(shared_client, "_shared", {})
    monkeypatch.setattr(Client, "local", lambda *, timeout: Client(address, timeout=timeout))
    return address


def test_the_last_lease_closes_the_client(address: str) -> None:
    one, other = Lease(address, 10), Lease(address, 10)
    assert one.client is other.client

    one.end(keep_local=True)
    assert other.client.capabilities().models
    other.end(keep_local=True)
    with pytest.raises(InputError, match="this client is closed"):
        other.client.capabilities()
    again = Lease(address, 10)
    assert again.client is not other.client
    again.end(keep_local=True)


def test_a_local_server_waits_for_the_next_lease_unless_told(local_address: str) -> None:
    first = Lease(None, 10)
    first.end(keep_local=True)
    second = Lease(None, 10)

    assert second.client is first.client
    assert second.client.address == local_address
    second.end(keep_local=False)
    with pytest.raises(InputError, match="this client is closed"):
        second.client.capabilities()


@pytest.mark.parametrize("address", [7, ["localhost:1"], "localhost"])
def test_what_is_no_address_is_refused(address: object) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT"):
        Lease(address, 10)  # type: ignore[arg-type]
