"""Tenants of one server: a request that is repeated runs once, and one who floods stops nobody."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from functools import partial
from typing import Any

import click
import grpc
import numpy as np

from kshot.server.access.limits import Limits
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.callers import open_channel, reason_of
from studies.reliability.floods import CALLS, WAY, support_set
from studies.reliability.keys import with_key, write_access
from studies.reliability.proof import Place, Proof, fresh, proof_options, run_proof
from studies.reliability.quiet import MODEL, beside
from studies.reliability.served import Served, serving

QUIET, LOUD = "quiet", "loud"
FLOODS = ("predict", "adapt")
MOST_REFUSAL_MS = 10.0
_DUPLICATES = 100
_QUEUE, _ENDLESS_STEPS = 4, 100_000
_SECONDS = 300.0


@click.command(name="tenants")
@click.option("--calls", default=2000, show_default=True, help="Calls beside each flood.")
@proof_options
def command(place: Place, calls: int) -> None:
    """Repeat requests, flood from another tenant, and fill the queue."""
    parts = {f"flood: {name}": partial(_flooded, place, name, calls) for name in FLOODS}
    parts |= {"duplicates": partial(_repeated, place), "full queue": partial(_full, place, calls)}
    run_proof(Proof("tenants", {"calls": calls}, parts), place)


def _served(place: Place, *flags: str) -> tuple[Served, dict[str, str]]:
    folder = fresh(place.work / "tenants")
    keys = write_access(folder / "access.json", {QUIET: Limits(), LOUD: Limits()})
    flags = ("--access", str(folder / "access.json"), *flags)
    return Served(folder, [MODEL], flags), keys


def _flooded(place: Place, name: str, calls: int, faults: list[str]) -> Row:
    served, keys = _served(place)
    with serving(served):
        return beside(served, name, calls, faults, (keys[QUIET], keys[LOUD]))


def _repeated(place: Place, faults: list[str]) -> Row:
    """Send a request many times at once, kill the server, and send it again."""
    served, keys = _served(place)
    request = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 4))
    request.request_id = str(uuid.uuid4())
    with serving(served):
        first = asyncio.run(_at_once(served.address, keys[LOUD], request))
        served.kill()
        served.start()
        with grpc.insecure_channel(served.address) as channel:
            stub = AdaptationServiceStub(with_key(channel, keys[LOUD]))
            again = stub.Adapt(request, timeout=_SECONDS)
            kept = stub.ListAdaptedModels(wire.ListAdaptedModelsRequest(), timeout=_SECONDS)
    made = {(each.adapted_model.id, each.report.SerializeToString()) for each in first}
    same = (again.adapted_model.id, again.report.SerializeToString()) in made
    row: Row = {
        "requests": len(first) + 1,
        "models": len(kept.adapted_models),
        "new": sum(not each.deduplicated for each in first),
        "same after SIGKILL": same and again.deduplicated,
    }
    if (row["models"], row["new"], len(made)) != (1, 1, 1) or not row["same after SIGKILL"]:
        faults.append(f"a repeated request ran again: {row}")
    return row


async def _at_once(address: str, key: str, request: wire.AdaptRequest) -> list[wire.AdaptResponse]:
    async with open_channel(address, key) as channel:
        stub: Any = AdaptationServiceStub(channel)  # an asynchronous one has no type
        calls = [stub.Adapt(request, timeout=_SECONDS) for _ in range(_DUPLICATES)]
        return list(await asyncio.gather(*calls))


def _full(place: Place, calls: int, faults: list[str]) -> Row:
    """Fill the queue, and measure how soon callers hear that it is full."""
    served, keys = _served(place, "--max-adapt-queue", str(_QUEUE))
    with serving(served):
        served.settle()
        seconds, reasons = asyncio.run(_refused(served.address, keys[LOUD], calls))
        on_server = [
            float(str(line["duration_ms"]))
            for line in served.log_entries()
            if line.get("code") == "UNAVAILABLE"
        ]
    row: Row = {
        "refused": len(on_server),
        "callers": CALLS,
        "reasons": dict(reasons),
        "server p50 [ms]": round(float(np.percentile(on_server, 50)), 2),
        "server p99 [ms]": round(float(np.percentile(on_server, 99)), 2),
        "client p99 [ms]": round(float(np.percentile(seconds, 99)) * 1e3, 2),
    }
    if float(str(row["server p99 [ms]"])) > MOST_REFUSAL_MS:
        faults.append(f"a refusal took {row['server p99 [ms]']} ms (p99)")
    return row


async def _refused(address: str, key: str, calls: int) -> tuple[list[float], Counter[str]]:
    """Have callers on connections of their own ask a full server; return what they waited."""
    endless = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 5))
    endless.options.step_count = 1000
    waits: list[float] = []
    reasons: Counter[str] = Counter()

    async def fill(stub: Any) -> None:  # noqa: ANN401 -- as above
        while True:
            try:
                await stub.Adapt(endless, timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise

    async def ask() -> None:
        request = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 6))
        async with open_channel(address, key) as channel:
            stub: Any = AdaptationServiceStub(channel)
            while len(waits) < calls:
                began = time.perf_counter()
                try:
                    await stub.Adapt(request, timeout=_SECONDS)
                except grpc.aio.AioRpcError as error:
                    reasons[reason_of(error)] += 1
                    waits.append(time.perf_counter() - began)
                await asyncio.sleep(0.05)

    async with open_channel(address, key) as channel:
        stub: Any = AdaptationServiceStub(channel)
        filling = [asyncio.create_task(fill(stub)) for _ in range(2 * _QUEUE)]
        await asyncio.sleep(1)
        await asyncio.gather(*(ask() for _ in range(CALLS)))
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
    return waits, reasons
