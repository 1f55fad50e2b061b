"""How much longer Predict takes with TLS and a key: two servers answer in turn, call by call."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import grpc
import numpy as np
import trustme

from kshot.server.access.access_file import change_access
from kshot.server.access.key import Role, new_key
from kshot.v1 import adaptation_pb2 as wire
from kshot.v1.adaptation_pb2_grpc import AdaptationServiceStub
from studies.common.results import Row
from studies.reliability.floods import pictures, support_set
from studies.reliability.proof import Place, Proof, fresh, proof_options, run_proof
from studies.reliability.served import Served, serving

MODEL = "omniglot"
MOST_MORE_MS = 0.3
_SECONDS = 60.0


@click.command(name="encrypted")
@click.option("--rounds", default=20, show_default=True, help="Rounds, each with a median.")
@click.option("--calls", default=200, show_default=True, help="Calls to each server in a round.")
@proof_options
def command(place: Place, rounds: int, calls: int) -> None:
    """Compare Predict with TLS and a key and without both."""
    part = partial(_compare, place, rounds, calls)
    run_proof(Proof("encrypted", {"rounds": rounds, "calls": calls}, {"predict": part}), place)


@dataclass(frozen=True)
class Caller:
    """A client of one server, and the medians of its rounds in milliseconds."""

    stub: AdaptationServiceStub
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    medians: list[float] = field(default_factory=list)

    def adapt(self) -> str:
        """Return the id of a model adapted to ten pictures."""
        request = wire.AdaptRequest(model=MODEL, support_set=support_set(5, 2))
        answer = self.stub.Adapt(request, timeout=_SECONDS, metadata=self.metadata)
        return answer.adapted_model.id

    def predict(self, adapted: str) -> float:
        """Ask for one image; return the milliseconds that it took."""
        request = wire.PredictRequest(adapted_model=adapted, queries=pictures(1, 3))
        began = time.perf_counter()
        self.stub.Predict(request, timeout=_SECONDS, metadata=self.metadata)
        return 1e3 * (time.perf_counter() - began)


def _compare(place: Place, rounds: int, calls: int, faults: list[str]) -> Row:
    folder = fresh(place.work / "encrypted")
    authority = trustme.CA()
    key, flags = _secure(folder, authority)
    plain, secured = Served(folder / "plain", [MODEL]), Served(folder / "secured", [MODEL], flags)
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with ExitStack() as stack:
        for served in (plain, secured):
            stack.enter_context(serving(served)).settle()
        channels = (
            stack.enter_context(grpc.insecure_channel(plain.address)),
            stack.enter_context(grpc.secure_channel(secured.address, trusted)),
        )
        callers = (
            Caller(AdaptationServiceStub(channels[0])),
            Caller(AdaptationServiceStub(channels[1]), (("authorization", f"Bearer {key}"),)),
        )
        adapted = [caller.adapt() for caller in callers]
        for _ in range(rounds + 1):
            times = [
                [caller.predict(model) for caller, model in zip(callers, adapted, strict=True)]
                for _ in range(calls)
            ]
            for caller, median in zip(callers, np.median(times, axis=0), strict=True):
                caller.medians.append(float(median))
    plain_medians, secured_medians = (caller.medians[1:] for caller in callers)  # one to warm up
    return _row(plain_medians, secured_medians, faults)


def _row(plain: list[float], secured: list[float], faults: list[str]) -> Row:
    """Return the medians, and how much the second is above the first in the same round."""
    more = np.subtract(secured, plain)
    least, greatest = np.percentile(more, (25, 75))
    row: Row = {
        "plain p50 [ms]": round(float(np.median(plain)), 3),
        "secured p50 [ms]": round(float(np.median(secured)), 3),
        "more [ms]": round(float(np.median(more)), 3),
        "more, quartiles [ms]": [round(float(least), 3), round(float(greatest), 3)],
    }
    if float(row["more [ms]"]) > MOST_MORE_MS:
        faults.append(f"Predict takes {row['more [ms]']} ms more, expected at most {MOST_MORE_MS}")
    return row


def _secure(folder: Path, authority: trustme.CA) -> tuple[str, list[str]]:
    """Write what a server with TLS and keys needs; return a key and its flags."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files = {name: folder / name for name in ("access", "cert", "key")}
    files["key"].touch(0o600)
    files["key"].write_bytes(issued.private_key_pem.bytes())
    issued.cert_chain_pems[0].write_to_path(str(files["cert"]))
    key, text = new_key("measured", Role.USER, None, datetime.now(UTC))
    change_access(files["access"], lambda file: replace(file, keys=(key,)), create=True)
    flags = ["--access", str(files["access"]), "--tls-cert", str(files["cert"])]
    return text, [*flags, "--tls-key", str(files["key"])]
