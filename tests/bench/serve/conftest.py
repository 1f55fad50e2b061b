"""A real server that the tests of loads share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kshot.bench.serve.server_process import ServerProcess, running_server
from kshot.bundle import builtin_bundle
from kshot.client import Client, ModelCapabilities


@pytest.fixture(autouse=True)
def own_servers(path_without_compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the servers that benches start compile nothing."""
    monkeypatch.setenv("PATH", path_without_compiler)


@pytest.fixture(scope="session")
def server(path_without_compiler: str) -> Iterator[ServerProcess]:
    """A server that takes two adaptations at once and refuses more."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PATH", path_without_compiler)
            patch.setenv("KSHOT_MAX_ADAPT_QUEUE", "2")
            process = stack.enter_context(running_server(builtin_bundle("omniglot"), "cpu"))
        yield process


@pytest.fixture(scope="session")
def model(server: ServerProcess) -> ModelCapabilities:
    with Client(server.address, timeout=60) as client:
        return client.capabilities().models["omniglot"]
