"""Storms of callers who leave, are late, too many, slow or no callers at all; then all is back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import grpc

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.callers import BUSY, Callers, open_channel, reason_of
from studies.reliability.connections import bad_connections
from studies.reliability.ledger import Ledger
from studies.reliability.proof import Place, Proof, proof_options, run_proof
from studies.reliability.served import Served, Usage, usage_of, wait_until
from studies.reliability.tasks import Task

# Calls that adapt at once, besides those that wait; a storm must leave all of these free.
ADAPT_QUEUE = 32
_AT_ONCE = 64
_SETTLE_SECONDS = 30.0
_MB = 2**20
# An allocator keeps some of what a storm took; a second storm must not add as much again.
_KEPT_BYTES = 48 * _MB
# Pools of threads fill as they are needed, and never empty.
_FEW_DESCRIPTORS, _FEW_THREADS = 3, 8
_LATE_SECONDS = 5.0


@dataclass(frozen=True)
class Storm:
    """A server under a storm, and what is wrong with it so far."""

    served: Served
    tasks: Sequence[Task]
    adapted_model: str
    chance: random.Random
    faults: list[str]

    def request(self) -> tuple[str, Any]:
        """Draw a method and a request to it."""
        task = self.chance.choice(self.tasks)
        adapt = wire.AdaptRequest()
        adapt.CopyFrom(task.request)
        adapt.options.ttl.FromSeconds(60)
        if self.chance.random() < 0.5:
            return "Adapt", adapt
        queries = self.tasks[0].queries[self.chance.randrange(len(self.tasks[0].queries))]
        return "Predict", wire.PredictRequest(adapted_model=self.adapted_model, queries=queries)


Kind = Callable[[Storm, int], Awaitable[Counter[str]]]


@click.command(name="storms")
@click.option("--calls", default=2000, show_default=True, help="Calls of each storm.")
@click.option("--connections", default=500, show_default=True, help="Slow and bad connections.")
@click.option("--tasks", default=20, show_default=True, help="Different support sets.")
@proof_options
def command(place: Place, calls: int, connections: int, tasks: int) -> None:
    """Cancel, disconnect, time out, crowd and babble; see what the server holds afterwards."""
    sizes = {name: connections if name == "connections" else calls for name in KINDS}
    run_proof(
        Proof(
            "storms",
            {"calls": calls, "connections": connections, "tasks": tasks},
            {name: partial(_storm, place, name, size, tasks) for name, size in sizes.items()},
        ),
        place,
    )


def _storm(place: Place, name: str, count: int, tasks: int, faults: list[str]) -> Row:
    flags = ("--max-adapt-queue", str(ADAPT_QUEUE))
    with place.served("storms", *flags, task_count=tasks) as (served, measured):
        return storm(served, measured, name, count, faults, ADAPT_QUEUE)


def storm(
    served: Served,
    tasks: Sequence[Task],
    name: str,
    count: int,
    faults: list[str],
    adapt_queue: int,
) -> Row:
    """Let a storm pass twice; return what stayed of the second: pools fill in the first.

    `adapt_queue` is the server's own; so many calls must find room afterwards.
    """

    async def pass_by(size: int, seed: int) -> Counter[str]:
        channel = open_channel(served.address)
        stub: Any = AdaptationServiceStub(channel)
        request = wire.AdaptRequest()
        request.CopyFrom(tasks[0].request)
        request.options.ttl.FromSeconds(3600)
        model = (await stub.Adapt(request, timeout=60)).adapted_model.id
        chance = random.Random(seed)  # noqa: S311 -- draws requests
        outcomes = await KINDS[name](Storm(served, tasks, model, chance, faults), size)
        delete = wire.DeleteAdaptedModelRequest(adapted_model=model)
        await stub.DeleteAdaptedModel(delete, timeout=60)
        await channel.close()
        return outcomes

    started = time.monotonic()
    asyncio.run(pass_by(count, 0))
    asyncio.run(_right_answers(served, tasks, faults))
    before = _settled(served, usage_of(served))
    outcomes = asyncio.run(pass_by(count, 1))
    after = _settled(served, before)
    _compare(before, after, faults)
    asyncio.run(_room_is_back(served, tasks, adapt_queue, faults))
    asyncio.run(_right_answers(served, tasks, faults))
    served.check()
    return {
        "count": outcomes.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "front_mb": round((after.front_bytes - before.front_bytes) / _MB, 1),
        "engine_mb": round((after.engine_bytes - before.engine_bytes) / _MB, 1),
        "descriptors": after.descriptors - before.descriptors,
        "threads": after.threads - before.threads,
        "seconds": round(time.monotonic() - started, 1),
    }


async def _cancels(storm: Storm, count: int) -> Counter[str]:
    """Cancel calls after 0 to 20 ms."""
    channel = open_channel(storm.served.address)

    async def one() -> str:
        name, request = storm.request()
        call = getattr(AdaptationServiceStub(channel), name)(request, timeout=60)
        await asyncio.sleep(storm.chance.uniform(0, 0.02))
        call.cancel()
        return await _outcome(call)

    outcomes = await _at_once(one, count)
    await channel.close()
    return outcomes


async def _disconnects(storm: Storm, count: int) -> Counter[str]:
    """Close connections under their calls, four each."""

    async def one() -> list[str]:
        channel = open_channel(storm.served.address)
        calls = []
        for _ in range(4):
            name, request = storm.request()
            calls.append(getattr(AdaptationServiceStub(channel), name)(request, timeout=60))
        await asyncio.sleep(storm.chance.uniform(0, 0.03))
        await channel.close()
        return list(await asyncio.gather(*map(_outcome, calls)))

    return await _at_once(one, count // 4, 16)


async def _deadlines(storm: Storm, count: int) -> Counter[str]:
    """Give calls 1 ms to 1 s; the answer is there in time, or says that it is not."""
    channel = open_channel(storm.served.address)

    async def one() -> str:
        name, request = storm.request()
        seconds, sent = 10 ** storm.chance.uniform(-3, 0), time.monotonic()
        outcome = await _outcome(
            getattr(AdaptationServiceStub(channel), name)(request, timeout=seconds)
        )
        if time.monotonic() - sent > seconds + _LATE_SECONDS:
            storm.faults.append(
                f"{name}: answered {time.monotonic() - sent:.1f} s after {seconds:.3f}"
            )
        return outcome

    outcomes = await _at_once(one, count)
    await channel.close()
    for outcome in outcomes:
        if outcome not in {"OK", "DEADLINE_EXCEEDED", *BUSY}:
            storm.faults.append(f"a call with a deadline: {outcome}")
    return outcomes


async def _crowds(storm: Storm, count: int) -> Counter[str]:
    """Adapt far more often at once than the queue takes: others are told to come back."""
    channels = [open_channel(storm.served.address) for _ in range(16)]

    async def one() -> str:
        stub: Any = AdaptationServiceStub(storm.chance.choice(channels))
        request = wire.AdaptRequest()
        request.CopyFrom(storm.chance.choice(storm.tasks).request)
        request.options.ttl.FromSeconds(60)
        return await _outcome(stub.Adapt(request, timeout=60))

    outcomes = await _at_once(one, count, 8 * _AT_ONCE)
    await asyncio.gather(*(channel.close() for channel in channels))
    for outcome in outcomes:
        if outcome not in {"OK", *BUSY}:
            storm.faults.append(f"a call in a crowd: {outcome}")
    return outcomes


async def _connections(storm: Storm, count: int) -> Counter[str]:
    """Hold bad connections, and ask beside them."""

    def held() -> int:
        with bad_connections(storm.served.address, count, storm.chance.randrange(1000)) as accepted:
            asyncio.run(_right_answers(storm.served, storm.tasks, storm.faults))
            return accepted

    return Counter(accepted=await asyncio.to_thread(held))


KINDS: dict[str, Kind] = {
    "cancels": _cancels,
    "disconnects": _disconnects,
    "deadlines": _deadlines,
    "crowds": _crowds,
    "connections": _connections,
}


async def _at_once(
    one: Callable[[], Awaitable[str | list[str]]], count: int, at_once: int = _AT_ONCE
) -> Counter[str]:
    room, outcomes = asyncio.Semaphore(at_once), Counter[str]()

    async def begin() -> None:
        async with room:
            outcome = await one()
            outcomes.update([outcome] if isinstance(outcome, str) else outcome)

    await asyncio.gather(*(begin() for _ in range(count)))
    return outcomes


async def _outcome(call: Any) -> str:  # noqa: ANN401 -- grpc has no type for it
    """Return `OK`, the reason of an error or its code."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    except asyncio.CancelledError:
        return "CANCELLED"
    return "OK"


async def _right_answers(served: Served, tasks: Sequence[Task], faults: list[str]) -> None:
    ledger = Ledger()
    await Callers(served.address, tasks, ledger, 2, 1).run(30, 0)
    faults += ledger.faults


async def _room_is_back(
    served: Served, tasks: Sequence[Task], adapt_queue: int, faults: list[str]
) -> None:
    """Fill the queue to its last place: a place that a storm kept would be missing."""
    channels = [open_channel(served.address) for _ in range(8)]

    async def one(number: int) -> str:
        stub: Any = AdaptationServiceStub(channels[number % len(channels)])
        request = wire.AdaptRequest()
        request.CopyFrom(tasks[number % len(tasks)].request)
        request.options.ttl.FromSeconds(60)
        return await _outcome(stub.Adapt(request, timeout=60))

    outcomes = Counter(await asyncio.gather(*map(one, range(adapt_queue))))
    await asyncio.gather(*(channel.close() for channel in channels))
    if outcomes["OK"] != adapt_queue:
        faults.append(f"the queue of {adapt_queue} did not take as many: {dict(outcomes)}")


def _settled(served: Served, like: Usage) -> Usage:
    """Wait until descriptors and threads are as before, or no longer change; return the usage."""
    wait_until(lambda: _is_back(usage_of(served), like), _SETTLE_SECONDS)
    return usage_of(served)


def _is_back(now: Usage, before: Usage) -> bool:
    return (
        now.descriptors <= before.descriptors + _FEW_DESCRIPTORS
        and now.threads <= before.threads + _FEW_THREADS
    )


def _compare(before: Usage, after: Usage, faults: list[str]) -> None:
    if after.descriptors > before.descriptors + _FEW_DESCRIPTORS:
        faults.append(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    if after.threads > before.threads + _FEW_THREADS:
        faults.append(f"threads: {before.threads} before, {after.threads} after")
    grown = after.front_bytes + after.engine_bytes - before.front_bytes - before.engine_bytes
    if grown > _KEPT_BYTES:
        faults.append(f"memory: {grown / _MB:.0f} MiB more than before")
