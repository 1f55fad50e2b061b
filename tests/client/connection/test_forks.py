"""A child of a fork is told to make its own client, and can."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kshot.client import Client, InputError
from kshot.client.connection import forks
from kshot.client.connection.forks import GATE, CallGate, check_process

PROGRAM = Path(__file__).with_name("forking.py")


def test_children_of_busy_threads_make_their_own_client(address: str) -> None:
    """They hang past their deadlines otherwise, or end in a check of gRPC."""
    done = subprocess.run(
        [sys.executable, PROGRAM, address], stdout=subprocess.PIPE, text=True, check=True
    )

    said = json.loads(done.stdout)
    assert len(said["children"]) == 3
    for predicted, listed, own, awaited in said["children"]:
        assert f"this client belongs to process {said['process']}, which forked" in predicted
        assert f"make a new one here: Client('{address}')" in listed
        assert own == "('0', '1')"
        assert "forked by one that used an AsyncClient; make a Client here" in awaited
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


def test_a_fork_holds_back_event_loops_without_blocking_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for no call of its own thread, which could not end meanwhile."""
    monkeypatch.setattr(forks, "_MOST_SECONDS", 600.0)
    gate, order = CallGate(), list[str]()

    async def call() -> None:
        thread = await gate.begin()
        order.append("call")
        gate.end(thread)

    async def fork() -> None:
        own = await gate.begin()
        gate.close()
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0)
        order.append("fork")
        gate.open()
        await waiting
        gate.end(own)

    asyncio.run(fork())

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
