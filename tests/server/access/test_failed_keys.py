from __future__ import annotations

import asyncio

import pytest

from kshot.server.access import failed_keys as module
from kshot.server.access.failed_keys import FailedKeys


class Clock:
    """A time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_many_failures_of_a_host_are_answered_slowly() -> None:
    """Its ports are not told apart, and others are answered at once."""
    clock = Clock()
    failed = FailedKeys(clock)

    delays = [failed.count(f"ipv4:10.0.0.1:{port}") for port in range(11)]

    assert delays == [0.0] * 10 + [1.0]
    assert failed.count("ipv4:10.0.0.2:1") == 0.0
    clock.now = 59.0
    assert failed.count("ipv4:10.0.0.1:1") == 1.0
    clock.now = 130.0
    assert failed.count("ipv4:10.0.0.1:1") == 0.0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PEERS", 3)
    failed = FailedKeys(Clock())

    for number in range(5):
        failed.count(f"ipv6:%5B::{number}%5D:1")

    assert list(failed._times) == [f"ipv6:%5B::{number}%5D" for number in (2, 3, 4)]


def test_few_answers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first; one whose caller leaves is forgotten."""
    monkeypatch.setattr(module, "_FREE", 0)
    monkeypatch.setattr(module, "_DELAY_SECONDS", 600.0)
    monkeypatch.setattr(module, "_MOST_WAITING", 2)

    async def main() -> None:
        failed = FailedKeys(Clock())
        answers = [
            asyncio.ensure_future(failed.answer_slowly(f"ipv4:10.0.0.{number}:1"))
            for number in range(3)
        ]

        await answers[0]

        assert not answers[1].done()
        assert not answers[2].done()
        for answer in answers[1:]:
            answer.cancel()
        await asyncio.wait(answers[1:])
        assert not failed._waiting

    asyncio.run(main())


def test_few_answers_wait_where_many_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FREE", 0)
    monkeypatch.setattr(module, "_DELAY_SECONDS", 600.0)
    monkeypatch.setattr(module, "_MOST_WAITING", 2)

    async def main() -> None:
        failed = FailedKeys(Clock())
        answers = [asyncio.ensure_future(failed.answer_slowly("ipv4:10.0.0.1:1")) for _ in range(9)]

        await asyncio.wait(answers[:7])

        assert not any(answer.done() for answer in answers[7:])
        for answer in answers[7:]:
            answer.cancel()
        await asyncio.wait(answers)

    asyncio.run(main())
