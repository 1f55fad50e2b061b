"""One proof: parts that run one after another, each kept when it is done, and their result."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
import torch
from click.core import ParameterSource

from kshot.bundle import replace_file
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import RESULTS, Result, Row
from studies.common.runner import Found, Options, Work, run_work, say
from studies.reliability.bundles import small_bundles
from studies.reliability.served import Served, serving
from studies.reliability.tasks import Task, make_tasks, measured

STUDY = "reliability"
FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Place:
    """Where proofs work and write: `work` keeps bundles, finished parts and what faults need."""

    work: Path
    out: Path
    again: bool

    @property
    def bundles(self) -> Sequence[Path]:
        """Return the bundles that proofs serve."""
        return small_bundles(self.work / "bundles")

    @contextmanager
    def served(self, name: str, *flags: str, task_count: int = 0) -> Iterator[tuple[Served, Any]]:
        """Run a server in a folder of its own, empty at first; yield it and measured tasks."""
        folder = fresh(self.work / name)
        with serving(Served(folder, self.bundles, flags)) as served:
            served.settle()
            yield served, measure_tasks(served.address, task_count)


@dataclass(frozen=True)
class Proof:
    """The sizes of a proof, and its parts: each gives a row, in which `faults` counts faults."""

    name: str
    settings: Mapping[str, Any]
    parts: Mapping[str, Callable[[list[str]], Row]]


def proof_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command its place."""

    @click.option(
        "--work",
        default=Path("build/reliability"),
        type=FOLDER,
        help="Folder of finished parts, bundles and what failed.",
    )
    @click.option("--out", default=RESULTS, type=FOLDER, help="Folder of the results.")
    @click.option("--again", is_flag=True, help="Run again what ran before.")
    @functools.wraps(command)
    def run(work: Path, out: Path, again: bool, **given: Any) -> None:  # noqa: ANN401 -- click's
        place = Place(work.absolute(), out, again)
        context = click.get_current_context()
        changed = [
            parameter.opts[0]
            for parameter in context.command.params
            if parameter.name in given
            and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
            and not getattr(parameter, "is_flag", False)  # flags change no sizes
        ]
        if changed and out.resolve() == RESULTS.resolve():
            raise click.UsageError(f"{changed[0]}: a trial must not replace results; add --out DIR")
        command(place, **given)

    return run


def run_proof(proof: Proof, place: Place) -> Result:
    """Run the parts that are not done yet and write the result; raise `ClickException` on faults.

    Interrupted, it goes on where it was.
    """
    progress = place.work / f"{proof.name}.json"
    settings = json.loads(json.dumps(proof.settings))

    def measure() -> Found:
        done = _read_progress(progress, settings, again=place.again)
        for number, (name, part) in enumerate(proof.parts.items(), 1):
            if name not in done["rows"]:
                say(f"{proof.name} {number}/{len(proof.parts)}: {name}")
                faults: list[str] = []
                row = part(faults)
                done["rows"][name] = {"part": name, **row, "faults": len(faults)}
                done["faults"] += [f"{name}: {fault}" for fault in faults]
                replace_file(progress, json.dumps(done).encode())
                say(f"  {' '.join(f'{key}={value}' for key, value in row.items())}")
        rows = [done["rows"][name] for name in proof.parts]
        return rows, {"faults": done["faults"][:100]}

    place.work.mkdir(parents=True, exist_ok=True)
    options = Options("", None, None, torch.device("cpu"), None, place.again, place.out, page=False)
    command = f"python -m studies.reliability {proof.name}"
    result = run_work(STUDY, Work(proof.name, command, settings, measure), options)
    progress.unlink(missing_ok=True)
    if result.more["faults"]:
        raise click.ClickException("faults: " + "\n  ".join(result.more["faults"]))
    return result


def measure_tasks(address: str, count: int) -> list[Task]:
    """Make tasks for a server's models and measure what they answer alone."""
    if not count:
        return []
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = AdaptationServiceStub(channel)
        models = stub.GetCapabilities(wire.GetCapabilitiesRequest(), timeout=30).models
        return measured(stub, make_tasks(models, count))


def fresh(folder: Path) -> Path:
    """Return an empty folder in this place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _read_progress(path: Path, settings: object, *, again: bool) -> dict[str, Any]:
    if path.exists() and not again:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["settings"] == settings:
            return found
    return {"settings": settings, "rows": {}, "faults": []}
