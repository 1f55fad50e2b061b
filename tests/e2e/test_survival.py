"""What an engine's death costs: its adaptation. `test_reliability.py` has the front's."""

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

        # The client repeats the call, which ends well if the next engine is there in time.
        error = cut.exception(timeout=60)
        assert error is None or isinstance(error, UnavailableError)
        probabilities = adapted.predict(IMAGES).probabilities
        np.testing.assert_allclose(probabilities, before, rtol=0, atol=1e-5)
        again = _adapt_when_available(client, within_seconds=60)
        assert again.weights_digest == adapted.weights_digest
        assert server.engine_pid() != engine
        assert server.stop() == 0
