"""A child of a fork is told to make its own client, and can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kshot.client import Client, InputError
from kshot.client.connection.forks import GATE, CallGate, check_process

PROGRAM = Path(__file__).with_name("forking.py")


def test_children_of_busy_threads_make_their_own_client(address: str) -> None:
    """They hang past their deadlines otherwise, or end in a check of gRPC."""
    done = subprocess.run(
        [sys.executable, PROGRAM, address], stdout=subprocess.PIPE, text=True, check=True
    )

    said = json.loads(done.stdout)
    assert len(said["children"]) == 3
    for predicted, listed, own in said["children"]:
        assert f"this client belongs to process {said['process']}, which forked" in predicted
        assert f"make a new one here: Client('{address}')" in listed
        assert own == "('0', '1')"
    assert said["after"] == ["0", "1"]


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
