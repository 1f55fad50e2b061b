"""What a death costs: the engine's the adaptation that it ran, the front's nothing acknowledged."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kshot.client import AdaptedModel, Client, UnavailableError

StartServer = Callable[[Path, Path], AbstractContextManager[Any]]
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)
LABELS = [index % 5 for index in range(10)]


def _adapt(client: Client, seed: int = 0) -> AdaptedModel:
    return client.adapt(IMAGES, LABELS, model="omniglot", step_count=2, seed=seed)


def _adapt_when_available(client: Client, within_seconds: float) -> AdaptedModel:
    """Retry as the server asks, up to a time."""
    until = time.monotonic() + within_seconds
    while True:
        try:
            return _adapt(client)
        except UnavailableError as error:
            assert error.retry_after is not None
            assert time.monotonic() < until, "the engine did not come back"
            threading.Event().wait(error.retry_after)


def test_a_dying_engine_takes_one_adaptation(start_server: StartServer, tmp_path: Path) -> None:
    with (
        start_server(tmp_path / "store", tmp_path / "log") as server,
        Client(server.address, timeout=120) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        adapted = _adapt(client)
        before = adapted.predict(IMAGES).probabilities
        engine = server.engine_pid()
        os.kill(engine, signal.SIGSTOP)  # the next adaptation cannot finish
        cut = pool.submit(_adapt, client, 1)
        for _ in range(20):  # a busy model gets a session of its own, which rounds otherwise
            probabilities = adapted.predict(IMAGES).probabilities
            np.testing.assert_allclose(probabilities, before, rtol=0, atol=1e-5)
        assert not cut.done()

        os.kill(engine, signal.SIGKILL)

        with pytest.raises(UnavailableError):
            cut.result(timeout=60)
        probabilities = adapted.predict(IMAGES).probabilities
        np.testing.assert_allclose(probabilities, before, rtol=0, atol=1e-5)
        again = _adapt_when_available(client, within_seconds=60)
        assert again.weights_digest == adapted.weights_digest
        assert server.engine_pid() != engine
        assert server.stop() == 0


def test_a_killed_front_loses_nothing_acknowledged(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Four callers adapt without pause while the front dies; every answer they got is kept."""
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    with start_server(tmp_path / "store", tmp_path / "log") as server:

        def keep_adapting(caller: int) -> None:
            with Client(server.address, timeout=60) as client:
                for attempt in range(1000):
                    try:
                        adapted = _adapt(client, 1000 * caller + attempt)
                    except UnavailableError:
                        return
                    acknowledged[adapted.id] = adapted.weights_digest
                    if len(acknowledged) >= 12:
                        enough.set()

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(keep_adapting, caller) for caller in range(4)]
            assert enough.wait(timeout=120)
            server.process.kill()
            for caller in callers:
                caller.result(timeout=120)

    with (
        start_server(tmp_path / "store", tmp_path / "log") as server,
        Client(server.address, timeout=60) as client,
    ):
        kept = {adapted.id: adapted for adapted in client.list()}
        for name, weights_digest in acknowledged.items():
            assert kept[name].weights_digest == weights_digest
            assert len(kept[name].predict(IMAGES).labels) == len(IMAGES)
        assert server.stop() == 0


def test_the_engine_of_a_killed_front_leaves(start_server: StartServer, tmp_path: Path) -> None:
    with start_server(tmp_path / "store", tmp_path / "log") as server:
        engine = server.engine_pid()

        server.process.kill()
        server.process.wait(timeout=60)

        until = time.monotonic() + 60
        while _running(engine):
            assert time.monotonic() < until, "the engine outlived its front"
            threading.Event().wait(0.05)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
