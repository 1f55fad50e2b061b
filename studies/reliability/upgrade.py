"""Upgrades under load: every model answers as its own version does, or says why it does not."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.bundles import TWO, two_versions
from studies.reliability.callers import open_channel, reason_of
from studies.reliability.proof import Place, Proof, fresh, measure_tasks, proof_options, run_proof
from studies.reliability.served import Served, serving
from studies.reliability.tasks import WIDE_TOLERANCE, Task, measured, probabilities_of

POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
_SECONDS = 120.0
_RELOADED = "bundles_reloaded"
# So many models are asked; the oldest make room.
_MOST_MODELS = 200

Stub = Any  # grpc has no type for aio stubs


@click.command(name="upgrade")
@click.option("--swaps", default=200, show_default=True, help="Changes of the repository in all.")
@click.option("--callers", default=16, show_default=True, help="Callers at once.")
@click.option("--parts", default=4, show_default=True, help="Servers, one after another.")
@click.option("--tasks", default=12, show_default=True, help="Different support sets.")
@proof_options
def command(place: Place, swaps: int, callers: int, parts: int, tasks: int) -> None:
    """Take versions away and bring them back under load; check every answer by its version's."""
    settings = {"swaps": swaps, "callers": callers, "parts": parts, "tasks": tasks}
    each = -(-swaps // parts)
    run_proof(
        Proof(
            "upgrade",
            settings,
            {
                f"{number}": partial(_upgrade, place, number, each, callers, tasks)
                for number in range(parts)
            },
        ),
        place,
    )


def _upgrade(place: Place, seed: int, swaps: int, count: int, tasks: int, faults: list[str]) -> Row:
    return upgrade_often(fresh(place.work / "upgrade"), seed, (swaps, count, tasks), faults)


def upgrade_often(
    folder: Path, seed: int, sizes: tuple[int, int, int], faults: list[str], path: str = ""
) -> Row:
    """Swap versions under callers; `sizes` count swaps, callers and tasks."""
    swaps, count, task_count = sizes
    repository = folder / "repository"
    versions = dict(enumerate(two_versions(repository), 1))
    flags = ("--repository", str(repository), "--poll-repository", str(POLL_SECONDS))
    with serving(Served(folder, (), flags, path)) as served:
        asked = measure_tasks(served.address, task_count)
        upgrade = Upgrade(served, versions, _by_version(served, asked), folder / "away")
        asyncio.run(upgrade.run(swaps, count, seed))
        served.check()
        faults += upgrade.faults
        seconds = [entry["seconds"] for entry in _entries(served)]
    return {"swaps": swaps, **upgrade.counts, "reload_seconds": seconds[-swaps:]}


def _by_version(served: Served, tasks: Sequence[Task]) -> list[Mapping[int, Task]]:
    """Return each task with what each version answers alone."""
    found: list[Mapping[int, Task]] = []
    with grpc.insecure_channel(served.address) as channel:
        stub = AdaptationServiceStub(channel)
        for task in tasks:
            answers = {}
            for version in (1, 2):
                request = wire.AdaptRequest()
                request.CopyFrom(task.request)
                request.model = f"{TWO}@{version}"
                one = Task(0, request, task.queries)
                answers[version] = measured(stub, [one])[0]
            found.append(answers)
    return found


def _entries(served: Served) -> list[dict[str, Any]]:
    return [entry for entry in served.log_entries() if entry["event"] == _RELOADED]


@dataclass(frozen=True)
class _Kept:
    """An adapted model: its task, its version, and whether it may be adapted again."""

    id: str
    task: Mapping[int, Task]
    version: int
    readapt: bool


@dataclass
class Upgrade:
    """A server whose versions come and go, and its callers."""

    served: Served
    versions: Mapping[int, Path]
    tasks: Sequence[Mapping[int, Task]]
    away: Path
    counts: Counter[str] = field(
        default_factory=lambda: Counter(adapted=0, answered=0, again=0, changed=0, not_found=0)
    )
    faults: list[str] = field(default_factory=list)
    _kept: list[_Kept] = field(default_factory=list)
    _gone: dict[int, list[list[float]]] = field(default_factory=lambda: {1: [], 2: []})
    _stopped: bool = False

    async def run(self, swaps: int, count: int, seed: int) -> None:
        """Let callers call while each version goes and comes back in turn."""
        channels = [open_channel(self.served.address) for _ in range(4)]
        stubs = [AdaptationServiceStub(channel) for channel in channels]
        group = [
            asyncio.create_task(self._call(stubs[place % 4], random.Random(f"{seed}/{place}")))  # noqa: S311 -- draws operations
            for place in range(count)
        ]
        try:
            turns = itertools.cycle((1, 2))
            for version in itertools.islice(turns, -(-swaps // 2)):
                await asyncio.sleep(0.2)
                await self._take_away(version)
                await asyncio.sleep(0.2)
                await self._bring_back(version)
        finally:
            self._stopped = True
            await asyncio.gather(*group)
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _take_away(self, version: int) -> None:
        self.away.mkdir(exist_ok=True)
        self._gone[version].append([time.time(), float("inf")])
        await self._reloaded(lambda: self.versions[version].rename(self.away / str(version)))

    async def _bring_back(self, version: int) -> None:
        await self._reloaded(lambda: (self.away / str(version)).rename(self.versions[version]))
        self._gone[version][-1][1] = time.time()

    async def _reloaded(self, change: Any) -> None:  # noqa: ANN401 -- a function of any result
        before, until = len(_entries(self.served)), time.monotonic() + _PATIENCE_SECONDS
        change()
        while len(await asyncio.to_thread(_entries, self.served)) == before:
            if time.monotonic() > until:
                self.faults.append(f"no reload within {_PATIENCE_SECONDS:g} s")
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _call(self, stub: Stub, chance: random.Random) -> None:
        while not self._stopped:
            known = list(self._kept)
            if not known or chance.random() < 0.3:
                await self._adapt(stub, chance)
            else:
                await self._predict(stub, chance.choice(known), chance)

    async def _adapt(self, stub: Stub, chance: random.Random) -> None:
        name = chance.choice((TWO, f"{TWO}@1", f"{TWO}@2"))
        task, readapt, request = (
            chance.choice(self.tasks),
            chance.random() < 0.5,
            wire.AdaptRequest(),
        )
        request.CopyFrom(task[1].request)
        request.model, request.options.readapt = name, readapt
        wanted, sent = int(name.partition("@")[2] or 0), time.time()
        try:
            answer = await stub.Adapt(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._refused(error, "MODEL_NOT_FOUND", "not_found", wanted, sent)
            return
        adapted = answer.adapted_model
        if wanted not in (0, adapted.model_version):
            self.faults.append(f"{name}: adapted to version {adapted.model_version}")
        alone = task[adapted.model_version].weights_digest
        if answer.report.slot_bucket <= 1 and adapted.weights_digest != alone:
            self.faults.append(f"{name}: other weights than the version gives alone")
        self.counts["adapted"] += 1
        self._kept.append(_Kept(adapted.id, task, adapted.model_version, readapt))
        del self._kept[:-_MOST_MODELS]

    async def _predict(self, stub: Stub, kept: _Kept, chance: random.Random) -> None:
        number = chance.randrange(len(kept.task[1].queries))
        queries = kept.task[1].queries[number]
        request, sent = wire.PredictRequest(adapted_model=kept.id, queries=queries), time.time()
        try:
            answer = await stub.Predict(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            # A version may go while a model is adapted again to it.
            version = 0 if kept.readapt else kept.version
            self._refused(error, "MODEL_CHANGED", "changed", version, sent)
            return
        found = probabilities_of(answer.probabilities)
        like = [
            version
            for version, task in kept.task.items()
            if np.abs(found - task.answers[number]).max() <= WIDE_TOLERANCE
        ]
        again = any("adapted it again" in warning for warning in answer.warnings)
        if not like or (kept.version not in like and not again):
            self.faults.append(f"{kept.id}: an answer of no version, or of another untold")
        if again and not kept.readapt:
            self.faults.append(f"{kept.id}: adapted again without being asked")
        self.counts["answered"] += 1
        self.counts["again"] += again

    def _refused(
        self, error: grpc.aio.AioRpcError, reason: str, count: str, version: int, sent: float
    ) -> None:
        """Check that a call was refused for this reason, while the version was away."""
        gone = [each for one in (version,) if one for each in self._gone[one]]
        if version == 0 and count == "changed":
            gone = [each for intervals in self._gone.values() for each in intervals]
        away = any(begun <= time.time() and sent <= ended for begun, ended in gone)
        if reason_of(error) != reason or not away:
            found = f"{error.code().name} {reason_of(error)}"
            self.faults.append(f"version {version}: {found}: {error.details()}")
        self.counts[count] += 1
