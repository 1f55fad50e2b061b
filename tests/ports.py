"""Ports for servers that have to know theirs before they start."""

import os
import random
import socket

# Below those that systems give to callers and to servers that ask for any; a part for each process
# of the tests.
_FIRST, _COUNT = 20_000, 500


def free_port() -> int:
    """Return a port that nobody had just now, nor gets by chance."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % 20 * _COUNT
    while True:
        port = random.SystemRandom().randrange(first, first + _COUNT)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
