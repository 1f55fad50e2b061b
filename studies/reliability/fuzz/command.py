"""The fuzzing's command: parts of many inputs, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from studies.common.results import Row
from studies.reliability.fuzz.calls import fuzz_calls
from studies.reliability.proof import Place, Proof, proof_options, run_proof

# Target: its share of the inputs, and the number of parts. What takes longer gets fewer.
SHARES = {
    "adapt": (0.2, 4),
    "predict": (0.15, 3),
    "infer": (0.1, 2),
    "names": (0.08, 2),
    "images": (0.2, 8),
    "manifests": (0.13, 4),
    "exports": (0.02, 4),
    "encoders": (0.01, 4),
    "index": (0.01, 4),
    "calls": (0.1, 5),
}
# Inputs of the parts that count branches, which take several times as long.
COVERED = 0.01
_SECONDS_PER_INPUT = 0.5


@click.command(name="fuzz")
@click.option("--inputs", default=1_000_000, show_default=True, help="Inputs in all.")
@click.option("--only", default="", help="Targets, separated by commas.  [default: all]")
@click.option("--coverage", is_flag=True, help="Count branches too; needs the package `coverage`.")
@proof_options
def command(place: Place, inputs: int, only: str, coverage: bool) -> None:
    """Send garbage to all that reads what others wrote: no crash, no hang, no INTERNAL."""
    chosen = only.split(",") if only else list(SHARES)
    parts: dict[str, Callable[[list[str]], Row]] = {}
    for name in chosen:
        share, count = SHARES[name]
        each = max(1, round(share * inputs / count))
        if name == "calls":
            run = partial(_calls, place, each)
            parts |= {f"{name} {number}": partial(run, number) for number in range(count)}
            continue
        parts |= {
            f"{name} {number}": partial(_in_process, place, name, each, number)
            for number in range(count)
        }
    if coverage:
        names = ",".join(name for name in chosen if name != "calls")
        few = max(1, round(COVERED * inputs))
        parts["covered"] = partial(_in_process, place, names, few, 1000)
    settings = {"inputs": inputs, "only": only, "coverage": coverage}
    run_proof(Proof("fuzz", settings, parts), place)


def _in_process(place: Place, name: str, count: int, seed: int, faults: list[str]) -> Row:
    """Run inputs in a child; its death by a signal or a hang is a fault with its last input.

    Several targets together are those whose branches are counted.
    """
    covered = "," in name
    place.bundles  # noqa: B018 -- makes them, once
    command = [sys.executable, "-m", "studies.reliability.fuzz.worker", name]
    command += ["--work", str(place.work), "--count", str(count), "--seed", str(seed)]
    found: dict[str, Any] = {"inputs": 0, "past_parsing": 0, "slowest_ms": 0.0, "branches": {}}
    try:
        done = subprocess.run(  # noqa: S603 -- our own command
            [*command, *(["--coverage"] if covered else [])],
            capture_output=True,
            text=True,
            check=False,
            timeout=600 + _SECONDS_PER_INPUT * count,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except subprocess.TimeoutExpired:
        faults.append(f"{name}: takes too long; see {place.work / 'fuzz' / name / 'current'}")
        return _row(found)
    if done.returncode:
        last = place.work / "fuzz" / name / "current"
        kept = last.with_name(f"ended-{seed}")
        if last.exists():
            kept.write_bytes(last.read_bytes())
        faults.append(f"{name}: ended with {done.returncode} at {kept}: {done.stderr[-500:]}")
        return _row(found)
    found |= json.loads(done.stdout.splitlines()[-1])
    faults += found.pop("faults")
    return _row(found)


def _calls(place: Place, count: int, seed: int, faults: list[str]) -> Row:
    flags = ("--max-adapted-models", "2000", "--max-message-bytes", str(2**20))
    with place.served("fuzz-calls", *flags, task_count=8) as (served, tasks):
        outcomes = asyncio.run(fuzz_calls(served, tasks, count, seed, faults))
        faults += [
            f"log: {json.dumps(entry)[:300]}"
            for entry in served.log_entries()
            if "traceback" in entry or entry.get("level") == "error" or "text" in entry
        ]
    past = outcomes.pop("past parsing")
    return _row(
        {
            "inputs": outcomes.total(),
            "past_parsing": past,
            "slowest_ms": 0.0,
            "branches": {},
            "outcomes": dict(sorted(outcomes.items())),
        }
    )


def _row(found: dict[str, Any]) -> Row:
    keys = ("inputs", "past_parsing", "slowest_ms", "branches")
    return {key: found[key] for key in keys} | {"outcomes": found.get("outcomes", {})}
