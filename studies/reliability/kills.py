"""SIGKILL under load: what was acknowledged is kept, and an engine's death soon forgotten."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from functools import partial

import click
import grpc

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.callers import BUSY, Callers, Mix, open_channel, reason_of
from studies.reliability.ledger import Ledger
from studies.reliability.proof import Place, Proof, proof_options, run_proof
from studies.reliability.served import Served, kill, running, wait_until
from studies.reliability.tasks import Task

# Of several engines one dies, or all, the spare included.
VICTIMS = ("engine", "front", "engines", "both")
# More than an engine may take: the proof reports the time, and gives up after this.
_PATIENCE_SECONDS = 120.0
_LOAD = Mix(adapt=0.5, predict=0.4, delete=0.05, export=0.0, short_lived=0.2, cut=True)


@click.command(name="kills")
@click.option("--kills", default=200, show_default=True, help="Kills in all, of each kind in turn.")
@click.option("--callers", default=16, show_default=True, help="Callers at once.")
@click.option("--parts", default=10, show_default=True, help="Stores, one after another.")
@click.option("--tasks", default=40, show_default=True, help="Different support sets.")
@proof_options
def command(place: Place, kills: int, callers: int, parts: int, tasks: int) -> None:
    """Kill engine, front or both at random moments; ask every acknowledged model afterwards."""
    settings = {"kills": kills, "callers": callers, "parts": parts, "tasks": tasks}
    each = -(-kills // parts)
    run_proof(
        Proof(
            "kills",
            settings,
            {
                f"{number}": partial(_kills, place, number, each, callers, tasks)
                for number in range(parts)
            },
        ),
        place,
    )


def _kills(place: Place, seed: int, kills: int, count: int, tasks: int, faults: list[str]) -> Row:
    with place.served("kills", "--cache-bytes", "200000", task_count=tasks) as (served, measured):
        return kill_often(served, measured, seed, kills, count, faults)


def kill_often(
    served: Served, tasks: Sequence[Task], seed: int, kills: int, count: int, faults: list[str]
) -> Row:
    """Kill each of `VICTIMS` in turn under load; return what was killed, checked and measured."""
    chance, ledger = random.Random(seed), Ledger()  # noqa: S311 -- draws moments
    callers = Callers(served.address, tasks, ledger, count, 4, _LOAD)
    waits: dict[str, list[float]] = {"engine": [], "engines": []}
    checked = 0
    for number, victim in zip(range(kills), itertools.cycle(VICTIMS), strict=False):
        moment = chance.uniform(0.05, 1.0)
        wait = asyncio.run(_kill_one(served, callers, victim, f"{seed}/{number}", moment))
        if wait is not None:
            waits[victim].append(wait)
        checked += asyncio.run(_ask_all(callers, chance))
    served.check()
    faults += ledger.faults
    if any(wait > _PATIENCE_SECONDS for found in waits.values() for wait in found):
        faults.append(f"Adapt did not come back within {_PATIENCE_SECONDS:g} s")
    return {
        "kills": kills,
        "answered": ledger.counts.total() - ledger.counts["busy"] - ledger.counts["faults"],
        "acknowledged": len(ledger.entries),
        "checked": checked,
        "engine_waits": [round(wait, 3) for wait in waits["engine"]],
        "engines_waits": [round(wait, 3) for wait in waits["engines"]],
    }


async def _kill_one(
    served: Served, callers: Callers, victim: str, seed: str, moment: float
) -> float | None:
    """Kill under load, start again what does not start itself; return how long Adapt was away."""
    wait = None
    async with callers.calling(seed):
        await asyncio.sleep(moment)
        engines = served.engine_pids()
        if victim in ("engine", "engines"):
            dying = engines if victim == "engines" else engines[:1]
            for pid in dying:
                kill(pid)
            wait = await _adapt_again(callers, time.monotonic())
        elif victim == "front":
            await asyncio.to_thread(served.kill)
        else:
            for pid in engines:
                kill(pid)
            await asyncio.to_thread(served.kill)
        if victim in ("front", "both"):
            if not await asyncio.to_thread(wait_until, lambda: not any(map(running, engines)), 30):
                callers.ledger.fault("an engine outlived its front by 30 s")
            await asyncio.to_thread(served.start)
    return wait


async def _adapt_again(callers: Callers, since: float) -> float:
    """Adapt until it works; return the seconds from a time to the answer."""
    channel = open_channel(callers.address)
    stub, task = AdaptationServiceStub(channel), callers.tasks[0]
    request = wire.AdaptRequest()
    request.CopyFrom(task.request)
    request.options.ttl.FromSeconds(1)
    try:
        while True:
            sent = time.monotonic()
            try:
                response = await stub.Adapt(request, timeout=_PATIENCE_SECONDS)  # type: ignore[misc]  # an aio stub
            except grpc.aio.AioRpcError as error:
                if reason_of(error) not in BUSY and error.code() is not grpc.StatusCode.UNAVAILABLE:
                    callers.ledger.fault(f"after a kill: {error.code().name}: {error.details()}")
                if sent - since > _PATIENCE_SECONDS:
                    return sent - since
                await asyncio.sleep(0.02)
            else:
                callers.ledger.acknowledge(task, response)
                return time.monotonic() - since
    finally:
        await channel.close()


async def _ask_all(callers: Callers, chance: random.Random) -> int:
    """Ask every acknowledged model; those that have ended must say so. Return their number."""
    ledger, checked = callers.ledger, 0
    channel = open_channel(callers.address)
    stub = AdaptationServiceStub(channel)
    room = asyncio.Semaphore(8)

    async def ask(place: int) -> None:
        entry = entries[place]
        async with room:
            try:
                await callers.check(stub, entry, chance.randrange(len(entry.task.queries)))
            except grpc.aio.AioRpcError as error:
                ledger.fault(f"{entry.id}: {error.code().name}: {error.details()}")

    # Models that have ended long ago were asked before.
    entries = [
        entry
        for entry in ledger.known()
        if entry.delete_ended is None and entry.expire_time > time.time() - 10
    ]
    try:
        await asyncio.gather(*map(ask, range(len(entries))))
        checked = len(entries)
    finally:
        await channel.close()
    return checked
