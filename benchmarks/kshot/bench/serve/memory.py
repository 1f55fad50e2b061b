"""Cost of adapted models: memory of the server's processes, bytes on disk, growth over rounds."""

from dataclasses import dataclass
from pathlib import Path

import click

from kshot.bench.report import say
from kshot.bench.serve.load_generator import OK
from kshot.bench.serve.process_usage import Memory
from kshot.bench.serve.server_calls import Session
from kshot.bench.serve.server_process import ServerProcess

# Before anything is counted, allocators and caches grow.
_WARM_UP_ROUNDS = 20
_LOOKS = 10
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Look:
    """Memory after a number of rounds."""

    rounds: int
    memory: Memory


@dataclass(frozen=True)
class MemoryResult:
    """Memory over rounds of adapt, predict and delete, then with `models` kept, then without.

    `growth` is from the first look, after the warm-up, to the last. Each kept model has predicted
    once; bytes per model are the growth of both processes, and of the store's blocks.
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
    """Return the bytes that a folder's files take on disk."""
    return sum(_BLOCK_BYTES * path.stat().st_blocks for path in folder.rglob("*"))


async def measure_memory(
    session: Session, server: ServerProcess, models: int, rounds: int
) -> MemoryResult:
    """Run the rounds, then keep models; raises `ClickException` for a call that is refused."""
    say(f"warming up, {_WARM_UP_ROUNDS} rounds of adapt, predict and delete")
    await _run_rounds(session, _WARM_UP_ROUNDS)
    looks: list[Look] = []
    for mark in sorted({rounds * number // _LOOKS for number in range(_LOOKS + 1)}):
        await _run_rounds(session, mark - looks[-1].rounds if looks else mark)
        looks.append(Look(mark, server.memory()))
        say(f"round {mark} of {rounds}: front {looks[-1].memory.front_bytes / 2**20:.1f} MiB")
    before, disk_before = server.memory(), disk_bytes(server.store)
    say(f"keeping {models} adapted models, each predicts once")
    for _ in range(models):
        await _adapt_and_predict(session)
    kept, disk_kept = server.memory(), disk_bytes(server.store)
    await session.forget_kept()
    return MemoryResult(
        rounds=rounds,
        looks=tuple(looks),
        growth=looks[-1].memory - looks[0].memory,
        models=models,
        before=before,
        kept=kept,
        deleted=server.memory(),
        memory_bytes_per_model=(kept - before).total_bytes / models,
        store_bytes_per_model=(disk_kept - disk_before) / models,
    )


async def _run_rounds(session: Session, rounds: int) -> None:
    for _ in range(rounds):
        await _adapt_and_predict(session)
        await session.forget_kept()


async def _adapt_and_predict(session: Session) -> None:
    answer = await session.predict([await session.keep()])()
    if answer.code != OK:
        raise click.ClickException(f"Predict answered {answer.code}")
