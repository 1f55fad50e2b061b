"""The plan of a server's loads, what they run with, and the end of each."""

from collections import Counter
from dataclasses import dataclass

import click

from kshot.bench.serve import summary
from kshot.bench.serve.load_generator import OK, Clock, Load, Send
from kshot.bench.serve.requests import Workload
from kshot.bench.serve.server_calls import Session
from kshot.bench.serve.server_process import ServerProcess


@dataclass(frozen=True)
class ServePlan:
    """How to load a server.

    `seconds` is the length of each load; loads that are compared take `turns` turns, each of
    `turn_seconds`. `rate` is the calls per second of the open loops, None for half of the closed
    loops' best rate. Predictions go to `adapted_models` in turn; `step_counts` are those of Adapt
    by steps.
    """

    concurrency: tuple[int, ...] = (1, 8, 64)
    seconds: float = 5.0
    turns: int = 4
    rate: float | None = None
    arrivals: str = "poisson"
    adapted_models: int = 1
    adapting_callers: tuple[int, ...] = (1, 8)
    step_counts: tuple[int, ...] = (1, 5, 10, 50)

    @property
    def turn_seconds(self) -> float:
        """Return the length of one turn of a load that is compared."""
        return self.seconds / self.turns


@dataclass(frozen=True)
class Bench:
    """The server where it is the bench's own, the session with it, and the plan of the loads."""

    server: ServerProcess | None
    session: Session
    workload: Workload
    plan: ServePlan
    clock: Clock


@dataclass(frozen=True)
class Method:
    """A method under load: its name, its call, and the type of its answers."""

    name: str
    send: Send
    response: summary.Response


async def end_load(bench: Bench, method: Method, load: Load) -> Load:
    """Delete the load's adapted models and check that some of its calls were answered.

    Raises `ClickException` when none was, or the bench's own server has ended.
    """
    if bench.server is not None:
        bench.server.check()
    await bench.session.forget()
    codes = Counter(sample.answer.code for sample in load.samples)
    if not codes[OK]:
        counts = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
        raise click.ClickException(f"no call of {method.name} was answered: {counts}")
    return load
