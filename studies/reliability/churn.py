"""Churn: many callers beside each other, and nobody gets an answer of another's model."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import click

from studies.common.results import Row
from studies.reliability.callers import Callers
from studies.reliability.ledger import Ledger
from studies.reliability.proof import Place, Proof, proof_options, run_proof

# Holds about a dozen of the small models: most predictions read the store.
CACHE_BYTES = 200_000


@click.command(name="churn")
@click.option("--requests", default=100_000, show_default=True, help="Requests in all.")
@click.option("--callers", default=64, show_default=True, help="Callers at once.")
@click.option("--parts", default=10, show_default=True, help="Servers, one after another.")
@click.option("--tasks", default=100, show_default=True, help="Different support sets.")
@proof_options
def command(place: Place, requests: int, callers: int, parts: int, tasks: int) -> None:
    """Check every answer to concurrent callers against the serial answers of its own model."""
    settings = {"requests": requests, "callers": callers, "parts": parts, "tasks": tasks}
    each = -(-requests // parts)
    run_proof(
        Proof(
            "churn",
            settings | {"cache_bytes": CACHE_BYTES},
            {
                f"{number}": partial(_churn, place, number, each, callers, tasks)
                for number in range(parts)
            },
        ),
        place,
    )


def _churn(
    place: Place, seed: int, requests: int, count: int, tasks: int, faults: list[str]
) -> Row:
    flags = ("--cache-bytes", str(CACHE_BYTES), "--max-hot-sessions", "8")
    with place.served("churn", *flags, task_count=tasks) as (served, measured):
        ledger, started = Ledger(), time.monotonic()
        callers = Callers(served.address, measured, ledger, count)
        asyncio.run(callers.run(requests, seed))
        served.check()
        faults += ledger.faults
        kinds = (
            "adapt",
            "predict",
            "adapt_and_predict",
            "delete",
            "look",
            "export",
            "gone",
            "busy",
        )
        return {
            "requests": callers.done,
            **{kind: ledger.counts[kind] for kind in kinds},
            "seconds": round(time.monotonic() - started, 1),
        }
