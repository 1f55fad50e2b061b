"""A program pays for what it uses of the client."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kshot.client

# The wire comes with the first client, Pillow and `kshot.local` with the first picture.
NEEDED = {
    "kshot",
    "kshot.client",
    "kshot.client.adapt_run",
    "kshot.client.adapted_model",
    "kshot.client.client",
    "kshot.client.connection",
    "kshot.client.connection.addresses",
    "kshot.client.connection.channel",
    "kshot.client.connection.connection",
    "kshot.client.connection.credentials",
    "kshot.client.connection.forks",
    "kshot.client.errors",
    "kshot.client.exchange",
    "kshot.client.kept_model",
    "kshot.client.lazy",
    "kshot.client.values",
}


def loaded(statement: str) -> set[str]:
    """Return what a fresh interpreter has imported after a statement, without Python's own."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}


def test_importing_the_client_brings_little_beside_grpc_and_numpy() -> None:
    base = loaded("import grpc, numpy")

    assert loaded("import kshot.client; from kshot.client import Client") - base == NEEDED
    assert base.isdisjoint({"PIL", "google", "sklearn", "torch"})


def test_names_are_listed_before_they_are_asked_for() -> None:
    assert set(kshot.client.__all__) <= set(dir(kshot.client))
    assert all(getattr(kshot.client, name).__name__ for name in ("Client", "InputError", "Timing"))
    with pytest.raises(AttributeError, match=r"module 'kshot\.client' has no attribute 'client2'"):
        kshot.client.client2  # noqa: B018 -- what is tested
