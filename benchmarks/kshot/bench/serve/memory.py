"""What adapted models cost: memory of the server's processes, bytes on disk, growth over rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from kshot.bench.report import say
from kshot.bench.serve.load import OK, Answer
from kshot.bench.serve.server_process import ServerProcess
from kshot.bench.serve.session import Session
from kshot.bench.serve.usage import Memory, memory_of

# Allocators and caches take their share before anything is counted.
_WARM_UP_ROUNDS = 20
# So often memory is looked at over the rounds.
_LOOKS = 10
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Look:
    """Memory after so many rounds."""

    rounds: int
    memory: Memory


@dataclass(frozen=True)
class MemoryResult:
    """Memory over rounds of adapt, predict and delete, then with `models` kept, then without.

    `growth` is from the first look, after rounds that nobody counts, to the last. Each kept model
    has predicted once; per model count the growth of both processes and the blocks of the store.
    """

    rounds: int
    looks: tuple[Look, ...]
    growth: Memory
    models: int
    before: Memory
    kept: Memory
    deleted: Memory
    memory_bytes_per_model: float
    store_bytes_per_model: float


def disk_bytes(folder: Path) -> int:
    """Count the bytes that a folder's files take on disk."""
    return sum(_BLOCK_BYTES * path.stat().st_blocks for path in folder.rglob("*"))


async def measure_memory(
    session: Session, server: ServerProcess, models: int, rounds: int
) -> MemoryResult:
    """Go round, then keep models; raises ``ClickException`` for a call that is refused."""
    say(f"warming up, {_WARM_UP_ROUNDS} rounds of adapt, predict and delete")
    for _ in range(_WARM_UP_ROUNDS):
        await _go_round(session)
    looks = await _look_over_rounds(session, lambda: _memory(server), rounds)
    before, disk_before = _memory(server), disk_bytes(server.store)
    say(f"keeping {models} adapted models, each predicts once")
    await _keep(session, models)
    kept, disk_kept = _memory(server), disk_bytes(server.store)
    await session.forget_kept()
    return MemoryResult(
        rounds=rounds,
        looks=tuple(looks),
        growth=_difference(looks[0].memory, looks[-1].memory),
        models=models,
        before=before,
        kept=kept,
        deleted=_memory(server),
        memory_bytes_per_model=sum(_values(_difference(before, kept))) / models,
        store_bytes_per_model=(disk_kept - disk_before) / models,
    )


async def _keep(session: Session, models: int) -> None:
    for _ in range(models):
        predict = session.predict([await session.keep()])
        _check("Predict", await predict())


async def _look_over_rounds(
    session: Session, look: Callable[[], Memory], rounds: int
) -> list[Look]:
    marks = sorted({rounds * number // _LOOKS for number in range(_LOOKS + 1)})
    looks, done = [], 0
    for mark in marks:
        for _ in range(mark - done):
            await _go_round(session)
        done = mark
        looks.append(Look(done, look()))
        say(f"round {done} of {rounds}: front {looks[-1].memory.front_bytes / 2**20:.1f} MiB")
    return looks


async def _go_round(session: Session) -> None:
    predict = session.predict([await session.keep()])
    _check("Predict", await predict())
    await session.forget_kept()


def _check(method: str, answer: Answer) -> None:
    if answer.code != OK:
        raise click.ClickException(f"{method} answered {answer.code}")


def _memory(server: ServerProcess) -> Memory:
    server.check()
    return memory_of(server)


def _difference(before: Memory, after: Memory) -> Memory:
    return Memory(after.front_bytes - before.front_bytes, after.engine_bytes - before.engine_bytes)


def _values(memory: Memory) -> Sequence[int]:
    return memory.front_bytes, memory.engine_bytes
