"""How long a quiet client waits beside one that floods the server, as ratios of its idle times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import grpc
import numpy as np

from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.flooder import BURN
from studies.reliability.floods import FLOODS, WAY, pictures, support_set
from studies.reliability.keys import API_KEY, with_key
from studies.reliability.proof import Place, Proof, fresh, proof_options, run_proof
from studies.reliability.served import Served, serving

MODELS = {"tail": "photos"}
MODEL = "omniglot"
MOST_RATIO = 3.0
MOST_BEGIN_SECONDS = 1.0
_BLOCKS = 5
_BETWEEN_SECONDS = 0.004
_SETTLE_SECONDS = 3.0
_SECONDS = 300.0


@click.command(name="quiet")
@click.option("--calls", default=2000, show_default=True, help="Quiet calls beside each flood.")
@click.option("--flood", "names", multiple=True, type=click.Choice(list(FLOODS)))
@proof_options
def command(place: Place, calls: int, names: tuple[str, ...]) -> None:
    """Flood the server, and measure another client beside it."""
    floods = names or tuple(FLOODS)
    parts = {name: partial(_beside, place, name, calls) for name in floods}
    run_proof(Proof("quiet", {"calls": calls, "floods": floods}, parts), place)


@dataclass
class Quiet:
    """A client with little to ask, and the seconds of its calls."""

    stub: AdaptationServiceStub
    adapted: str = ""
    predicts: dict[str, list[float]] = field(default_factory=dict)
    begins: dict[str, list[float]] = field(default_factory=dict)

    def adapt(self, beside: str) -> None:
        """Adapt to five examples; the time before its first step is what others cost."""
        request = wire.AdaptRequest(model=MODEL, support_set=support_set(WAY, 2))
        request.options.step_count = 5
        answer = self.stub.Adapt(request, timeout=_SECONDS)
        self.adapted = self.adapted or answer.adapted_model.id
        waited = answer.timing.queue.ToNanoseconds() / 1e9
        self.begins.setdefault(beside, []).append(waited)

    def predict(self, beside: str, calls: int) -> None:
        """Ask for one image at a time, with pauses."""
        request = wire.PredictRequest(adapted_model=self.adapted, queries=pictures(1, 3))
        found = self.predicts.setdefault(beside, [])
        for _ in range(calls):
            began = time.perf_counter()
            self.stub.Predict(request, timeout=_SECONDS)
            found.append(time.perf_counter() - began)
            time.sleep(_BETWEEN_SECONDS)

    def milliseconds(self, beside: str, percent: float) -> float:
        """Return a percentile of its predictions."""
        return round(float(np.percentile(self.predicts[beside], percent)) * 1e3, 2)


def _beside(place: Place, name: str, calls: int, faults: list[str]) -> Row:
    bundles = dict.fromkeys((MODEL, MODELS.get(name, MODEL)))
    with serving(Served(fresh(place.work / "quiet"), list(bundles))) as served:
        return beside(served, name, calls, faults)


def beside(
    served: Served, name: str, calls: int, faults: list[str], keys: tuple[str, str] = ("", "")
) -> Row:
    """Take turns between a flood and a process that burns as much processor; compare.

    `keys` are those of the quiet client and of the flood, on a server that wants them.
    """
    with grpc.insecure_channel(served.address) as channel:
        quiet = Quiet(AdaptationServiceStub(with_key(channel, keys[0])))
        quiet.adapt("first")
        quiet.predict("first", 50)
        shares = []
        for _ in range(_BLOCKS):
            with _process(served.address, name, MODELS.get(name, MODEL), keys[1]) as flooder:
                began, burnt = time.monotonic(), _cpu_seconds(flooder)
                for _ in range(3):
                    quiet.adapt(name)
                quiet.predict(name, calls // _BLOCKS)
                shares.append((_cpu_seconds(flooder) - burnt) / (time.monotonic() - began))
            time.sleep(_SETTLE_SECONDS)  # what it asked for ends
            with _process(f"{min(1.0, shares[-1]):.3f}", BURN, ""):
                for _ in range(3):
                    quiet.adapt("idle")
                quiet.predict("idle", calls // _BLOCKS)
    row: Row = {
        "calls": len(quiet.predicts[name]),
        "idle p50 [ms]": quiet.milliseconds("idle", 50),
        "idle p99 [ms]": quiet.milliseconds("idle", 99),
        "p50 [ms]": quiet.milliseconds(name, 50),
        "p99 [ms]": quiet.milliseconds(name, 99),
        "p99 ratio": round(quiet.milliseconds(name, 99) / quiet.milliseconds("idle", 99), 2),
        "Adapt begins [s]": round(max(quiet.begins[name]), 3),
        "flooder's share": round(float(np.mean(shares)), 2),
    }
    if float(row["p99 ratio"]) > MOST_RATIO:
        faults.append(f"p99 is {row['p99 ratio']} times its idle value")
    if max(quiet.begins[name]) > MOST_BEGIN_SECONDS:
        faults.append(f"an Adapt began after {row['Adapt begins [s]']} s")
    return row


@contextmanager
def _process(address: str, name: str, model: str, key: str = "") -> Iterator[int]:
    """Run a flooder; it is ended with the block."""
    command = [sys.executable, "-P", "-m", "studies.reliability.flooder", address, name, model]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    process = subprocess.Popen(  # noqa: S603 -- our own command
        command,
        stdout=subprocess.PIPE,
        cwd=root,
        env=os.environ | {"PYTHONPATH": path, API_KEY: key},
    )
    try:
        assert process.stdout is not None  # noqa: S101 -- it is piped
        process.stdout.readline()
        time.sleep(1.0)
        yield process.pid
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
