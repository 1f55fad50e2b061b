"""A program that forks while its threads call a server; it prints what its children said.

It is a process of its own: a gRPC server in the process that forks, as the fixtures have it, keeps
gRPC from resting, and children of such a process hang.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np

from kshot.client import AsyncClient, Client, InputError

IMAGES = np.zeros((4, 6, 5), np.uint8)


def main(address: str) -> None:
    """Fork three times amid the calls of three threads."""
    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
    asyncio.run(ask_from_loop(address))
    with Client(address, timeout=10) as client:
        adapted = client.adapt(IMAGES, [0, 1, 0, 1])
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                adapted.predict(IMAGES)

        def act(there: Connection) -> None:
            said = [
                words_of(lambda: adapted.predict(IMAGES)),
                words_of(lambda: list(client.list())),
            ]
            client.close()
            with Client(client.address) as own:
                said.append(words_of(lambda: own.get(adapted.id).class_names))
            there.send([*said, words_of(lambda: AsyncClient(client.address))])

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            answers = [in_child(act) for _ in range(3)]
        finally:
            over.set()
            for thread in threads:
                thread.join()
        after = client.predict(adapted.id, IMAGES).class_names
    print(json.dumps({"process": os.getpid(), "children": answers, "after": after}))


async def ask_from_loop(address: str) -> None:
    """Make a call as programs with an event loop do."""
    async with AsyncClient(address) as client:
        await client.capabilities()


def in_child(act: Callable[[Connection], None]) -> list[str]:
    """Run a function in a forked child, and return what it sent."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=act, args=(there,))
    child.start()
    there.close()
    assert here.poll(60)
    said = here.recv()
    child.join(60)
    assert child.exitcode == 0
    return list(said)


def words_of(call: Callable[[], object]) -> str:
    """Return what a call answers, or why it does not."""
    try:
        return str(call())
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    main(sys.argv[1])
