"""Servers that a client starts for its own process."""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kshot.client import Client, InputError, UnauthenticatedError, UnavailableError

BUNDLES = ["omniglot"]
IMAGES = np.random.default_rng(0).integers(0, 255, (4, 28, 28), np.uint8)
_ORPHAN = f"""
import threading
from kshot.client import Client
client = Client.local(bundles={BUNDLES})
print(client._server.pid, flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module", autouse=True)
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let servers compile nothing, and make their temporary files in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path_factory.mktemp("no-compiler")))
        folder = tmp_path_factory.mktemp("temporary")
        patch.setenv("TMPDIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client.local(bundles=BUNDLES, timeout=120) as client:
        yield client


def test_a_local_client_adapts_and_predicts(client: Client) -> None:
    adapted = client.adapt(IMAGES, [0, 0, 1, 1])

    assert adapted.predict(IMAGES).labels.tolist() == [0, 0, 1, 1]


def test_local_clients_share_a_server_and_keep_it(client: Client) -> None:
    with Client.local(bundles=BUNDLES) as other:
        assert other.address == client.address

    other.close()
    assert client.capabilities().models


def test_other_programs_are_refused(
    client: Client, monkeypatch: pytest.MonkeyPatch, without_compiler: Path
) -> None:
    """Whoever finds the port has no key, and its file has a digest and is this user's alone."""
    monkeypatch.delenv("KSHOT_API_KEY", raising=False)
    with Client(client.address) as other, pytest.raises(UnauthenticatedError):
        other.capabilities()

    (folder,) = without_compiler.glob("kshot-store-*")
    assert folder.stat().st_mode & 0o077 == 0
    assert "kshot_" not in (folder / "access.json").read_text()


def test_the_server_ends_with_a_parent_that_is_killed(without_compiler: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _ORPHAN], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = os.pidfd_open(int(parent.stdout.readline()))
        before = set(without_compiler.glob("kshot-store-*"))
        parent.kill()
    poll = select.poll()
    poll.register(server, select.POLLIN)

    assert poll.poll(60_000)
    os.close(server)
    assert len(before - set(without_compiler.glob("kshot-store-*"))) == 1


def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(UnavailableError, match=r"did not start: .*nowhere"):
        Client.local(bundles=["nowhere/1"])


def test_the_log_of_a_server_that_does_not_start_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first >&2\necho 'kshot: its log above says why' >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(UnavailableError) as caught:
        Client.local(bundles=["other"])
    assert str(caught.value) == (
        "the local server did not start: \nfirst\nkshot: its log above says why"
    )


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )

    with pytest.raises(InputError, match=r"needs torch, .*pip install .*server,engine,cpu"):
        Client.local(bundles=["omniglot-best"])


def test_a_name_is_no_list_of_names() -> None:
    with pytest.raises(InputError, match="bundles: expected a sequence"):
        Client.local(bundles="omniglot")
