"""Tenants of one server: a request that is repeated runs once, and one who floods stops nobody."""

from __future__ import annotations

import asyncio
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
_QUEUE, _PAUSE_SECONDS = 4, 0.05
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
        found = beside(served, name, calls, faults, (keys[QUIET], keys[LOUD]))
    return _row(calls, p99=found["p99 [ms]"], idle=found["idle p99 [ms]"])


def _row(requests: int, models: int = 0, *, p99: Any = 0.0, idle: Any = 0.0) -> Row:  # noqa: ANN401 -- a number of a row
    """Return a row: requests, the models that they made, and milliseconds."""
    return {"requests": requests, "models": models, "p99 [ms]": p99, "idle p99 [ms]": idle}


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
    models, new = len(kept.adapted_models), sum(not each.deduplicated for each in first)
    if (models, new, len(made)) != (1, 1, 1):
        faults.append(f"{len(first)} requests at once made {models} models and {len(made)} answers")
    if not (same and again.deduplicated):
        faults.append("the answer after a SIGKILL is another")
    return _row(len(first) + 1, models)


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
        reasons = asyncio.run(_refused(served.address, keys[LOUD], calls))
        milliseconds = [
            float(str(line["duration_ms"]))
            for line in served.log_entries()
            if line.get("code") == "UNAVAILABLE"
        ]
    p99 = round(float(np.percentile(milliseconds, 99)), 2)
    if p99 > MOST_REFUSAL_MS:
        faults.append(f"a refusal took {p99} ms (p99)")
    if set(reasons) != {"QUEUE_FULL"}:
        faults.append(f"other refusals than by the queue: {dict(reasons)}")
    return _row(len(milliseconds), p99=p99)


async def _refused(address: str, key: str, calls: int) -> Counter[str]:
    """Have callers on connections of their own ask a full server; return what they hear."""
    endless = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 5))
    endless.options.step_count = 1000
    reasons: Counter[str] = Counter()

    async def fill(stub: Any) -> None:  # noqa: ANN401 -- as above
        while True:
            try:
                await stub.Adapt(endless, timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def ask() -> None:
        request = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 6))
        async with open_channel(address, key) as channel:
            stub: Any = AdaptationServiceStub(channel)
            while reasons.total() < calls:
                try:
                    await stub.Adapt(request, timeout=_SECONDS, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    reasons[reason_of(error)] += 1
                await asyncio.sleep(_PAUSE_SECONDS)

    async with open_channel(address, key) as channel:
        stub: Any = AdaptationServiceStub(channel)
        filling = [asyncio.create_task(fill(stub)) for _ in range(2 * _QUEUE)]
        await asyncio.sleep(1)
        await asyncio.gather(*(ask() for _ in range(CALLS)))
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
    return reasons
