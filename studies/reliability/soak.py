"""A soak: mixed load for a long time, and what the processes hold meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import click
import numpy as np

from kshot.trainer.statistics import student_t_quantile
from studies.common.results import Row
from studies.reliability.callers import Callers
from studies.reliability.connections import bad_connections
from studies.reliability.ledger import Ledger
from studies.reliability.proof import Place, Proof, proof_options, run_proof
from studies.reliability.served import Served, Usage, usage_of
from studies.reliability.tasks import Task

# The first part of the time, in which pools and caches fill.
_WARM_SHARE = 0.2
_BLOCKS = 12
# The most that a process may grow in an hour, by the lower end of the interval.
_MOST_MB_PER_HOUR = 8.0
# A shorter soak is a trial: caches still fill.
_LEAST_SECONDS = 600.0
_MB = 2**20


@click.command(name="soak")
@click.option("--minutes", default=30.0, show_default=True, help="How long.")
@click.option("--callers", default=8, show_default=True, help="Callers at once.")
@click.option("--tasks", default=60, show_default=True, help="Different support sets.")
@proof_options
def command(place: Place, minutes: float, callers: int, tasks: int) -> None:
    """Load a server for a long time; its memory and descriptors stay as they are."""
    settings = {"minutes": minutes, "callers": callers, "tasks": tasks}
    run_proof(Proof("soak", settings, {"0": partial(_soak, place, minutes, callers, tasks)}), place)


def _soak(place: Place, minutes: float, count: int, tasks: int, faults: list[str]) -> Row:
    flags = ("--cache-bytes", "1000000", "--max-hot-sessions", "8")
    with place.served("soak", *flags, task_count=tasks) as (served, measured):
        return soak(served, measured, 60 * minutes, count, faults)


def soak(
    served: Served, tasks: Sequence[Task], seconds: float, count: int, faults: list[str]
) -> Row:
    """Load a server; return the requests and the slopes of what it holds, per hour."""
    ledger = Ledger()
    callers = Callers(served.address, tasks, ledger, count, 4)
    samples = asyncio.run(_sampled(served, callers, seconds))
    served.check()
    faults += ledger.faults
    row: dict[str, Any] = {
        "minutes": round(seconds / 60, 2),
        "requests": callers.done,
        "samples": len(samples),
    }
    for name, unit in (
        ("front_bytes", _MB),
        ("engine_bytes", _MB),
        ("descriptors", 1),
        ("threads", 1),
    ):
        points = [(at, asdict(usage)[name] / unit) for at, usage in samples]
        slope, width = slope_per_hour(points)
        key = name.replace("bytes", "mb")
        row |= {
            f"{key}_start": round(points[0][1], 2),
            f"{key}_end": round(points[-1][1], 2),
            f"{key}_per_hour": round(slope, 2),
            f"{key}_per_hour_ci95": round(width, 2),
        }
        if seconds >= _LEAST_SECONDS and slope - width > _MOST_MB_PER_HOUR:
            faults.append(f"{key}: grows by {slope:.1f} ± {width:.1f} in an hour")
    return row


async def _sampled(
    served: Served, callers: Callers, seconds: float
) -> Sequence[tuple[float, Usage]]:
    """Call, with bad connections now and then; return the usage at times after the warm-up."""
    samples, started = [], time.monotonic()
    pause = max(0.2, seconds / 600)
    async with callers.calling("soak"):
        while (at := time.monotonic() - started) < seconds:
            if at >= _WARM_SHARE * seconds:
                samples.append((at, await asyncio.to_thread(usage_of, served)))
            await asyncio.to_thread(_babble, served.address, int(at))
            await asyncio.sleep(pause)
            served.check()
            _forget(callers.ledger)
    return samples


def _babble(address: str, seed: int) -> None:
    with bad_connections(address, 2, seed):
        pass


def _forget(ledger: Ledger) -> None:
    """Drop models that ended long ago: the proof's own memory stays small."""
    past = time.time() - 60
    for entry in ledger.known():
        if entry.expire_time < past or (entry.delete_ended or math.inf) < past:
            del ledger.entries[entry.id]


def slope_per_hour(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line to means of blocks of `(seconds, value)`; return slope and half width of 95 %.

    Neighbouring samples depend on each other; means of blocks hardly do.
    """
    blocks = np.array_split(np.asarray(points), min(_BLOCKS, len(points)))
    times, values = np.array([block.mean(axis=0) for block in blocks]).T
    if len(times) < 3:
        return 0.0, math.inf
    centred = times - times.mean()
    slope = float((centred * values).sum() / (centred**2).sum())
    rest = values - values.mean() - slope * centred
    error = math.sqrt(float((rest**2).sum()) / (len(times) - 2) / float((centred**2).sum()))
    return 3600 * slope, 3600 * error * student_t_quantile(len(times) - 2)
