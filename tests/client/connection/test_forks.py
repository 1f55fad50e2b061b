"""A child of a fork is told to make its own client, and can."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import pytest

from kshot.client import AdaptedModel, Client, InputError
from kshot.client.connection.forks import GATE, CallGate, check_process

IMAGES = np.zeros((4, 6, 5), np.uint8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called"),  # by JAX, of an earlier test
]


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
    try:
        return str(call())
    except InputError as error:
        return str(error)


def test_children_of_busy_threads_make_their_own_client(client: Client) -> None:
    """They hang past their deadlines otherwise, or end in a check of gRPC."""
    adapted: AdaptedModel = client.adapt(IMAGES, [0, 1, 0, 1])
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            adapted.predict(IMAGES)

    def act(there: Connection) -> None:
        said = [words_of(lambda: adapted.predict(IMAGES)), words_of(lambda: list(client.list()))]
        client.close()
        with Client(client.address) as own:
            there.send([*said, words_of(lambda: own.get(adapted.id).class_names)])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        answers = [in_child(act) for _ in range(3)]
    finally:
        over.set()
        for thread in threads:
            thread.join()

    for predicted, listed, own in answers:
        assert f"this client belongs to process {os.getpid()}, which forked" in predicted
        assert f"make a new one here: Client('{client.address}')" in listed
        assert own == "('0', '1')"
    assert client.predict(adapted.id, IMAGES).class_names == ("0", "1")


def test_a_fork_holds_calls_back() -> None:
    gate, order = CallGate(), list[str]()

    def call() -> None:
        with gate.call():
            order.append("call")

    gate.close()
    thread = threading.Thread(target=call)
    thread.start()
    order.append("fork")
    gate.open()
    thread.join()

    assert order == ["fork", "call"]


def test_a_child_of_a_call_cannot_make_any(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = CallGate()
    with gate.call():
        gate.forked()
    monkeypatch.setattr(GATE, "broken", gate.broken)

    with pytest.raises(InputError, match="forked amid calls of its parent; start it by the method"):
        Client("localhost:1")
    with pytest.raises(InputError, match="forked amid calls"):
        check_process("localhost:1", os.getpid())
