"""`kshot bench serve`: a real server under load, over the wire."""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import click

from kshot.bench.environment import environment
from kshot.bench.options import (
    COUNT,
    Shared,
    gathered,
    option,
    read_counts,
    read_positive,
    shared_options,
)
from kshot.bench.plot import check_plot
from kshot.bench.serve.load_generator import ARRIVALS, Clock, run
from kshot.bench.serve.measured_server import MeasuredServer, other_server, own_server
from kshot.bench.serve.measurement import Bench, ServePlan, measure
from kshot.bench.serve.memory import MemoryResult, measure_memory
from kshot.bench.serve.process_usage import resident_bytes
from kshot.bench.serve.requests import Workload, check_workload, choose_model
from kshot.bench.serve.server_calls import open_session, try_out
from kshot.bench.serve.server_process import ServerProcess, interrupted_by_signals
from kshot.bench.serve.summary import ServeResult
from kshot.bench.serve.tables import draw_result, loads_report, memory_report
from kshot.client import ModelCapabilities
from kshot.trainer.commands.options import find_bundle

_MAX_ARRIVALS = 1_000_000
_NOT_WITH_SERVER = ("bundle_name", "device", "memory")
_ONLY_WITH_MEMORY = ("models", "rounds")
_NOT_WITH_MEMORY = ("concurrency", "rate", "arrivals", "seconds", "adapted_models", "plot")


@click.command("serve")
@option(
    "--server",
    metavar="HOST:PORT",
    help="Measure this running server. [default: a new server on a free loopback port]",
)
@option("--model", metavar="NAME", help="Model to adapt. [default: the only one served]")
@option(
    "--concurrency",
    callback=read_counts,
    default="1,8,64",
    help="Callers of each closed loop, between commas.",
)
@option(
    "--rate",
    type=float,
    callback=read_positive,
    help="Calls per second of the open loops. [default: half of the closed loops' best rate]",
)
@option(
    "--arrivals",
    type=click.Choice(ARRIVALS),
    default="poisson",
    help="Spacing of an open loop's calls.",
)
@option("--seconds", type=float, callback=read_positive, default=5.0, help="Length of each load.")
@option(
    "--adapted-models", type=COUNT, default=1, help="Adapted models that predictions go to in turn."
)
@option("--step-count", type=COUNT, default=10)
@option("--images", type=COUNT, default=1, help="Queries of each call to Predict.")
@option(
    "--memory",
    is_flag=True,
    help="Measure memory and disk instead: over --rounds of adapt, predict and delete, then with "
    "--models adapted models kept.",
)
@option("--models", type=COUNT, default=1000)
@option("--rounds", type=COUNT, default=2000)
@shared_options("bundle_name", "way", "shot", "batch_norm_mode", "plot")
def command(
    server: str | None,
    model: str | None,
    memory: bool,
    models: int,
    rounds: int,
    **given: Any,  # noqa: ANN401 -- the options' own types
) -> None:
    """Measure the latency of Adapt and Predict under load, over loopback.

    Three loads: closed loops, in which each caller sends the next call when the last is answered;
    an open loop, in which calls arrive at a rate and latency counts from when they were due, so
    that a stall shows in every call that it delays; and predictions beside adaptations. The bench's
    own server keeps its adapted models in a temporary folder (see TMPDIR) and takes its other
    settings from KSHOT_... variables. The bench deletes the adapted models that it makes.
    """
    shared, plan = gathered(Shared, given), gathered(ServePlan, given)
    workload = gathered(Workload, given)
    if server is not None:
        _refuse(_NOT_WITH_SERVER, "cannot be combined with --server")
    if memory:
        _refuse(_NOT_WITH_MEMORY, "cannot be combined with --memory")
        resident_bytes(os.getpid())
    else:
        _refuse(_ONLY_WITH_MEMORY, "requires --memory")
    if plan.rate is not None and plan.rate * plan.seconds > _MAX_ARRIVALS:
        raise click.UsageError(
            f"--rate: expected at most {_MAX_ARRIVALS} calls in all, got {plan.rate:g} for "
            f"{plan.seconds:g} seconds"
        )
    check_plot(shared.plot)
    chosen = (
        other_server(server)
        if server
        else own_server(find_bundle(shared.bundle_name), shared.device)
    )
    with interrupted_by_signals(), chosen as measured:
        served = choose_model(measured.capabilities, model)
        check_workload(workload, served)
        resolved = try_out(measured.address, workload, served)
        workload = replace(workload, batch_norm_mode=resolved.batch_norm_mode)
        document: dict[str, object] = {
            "environment": environment(),
            "server": measured.document(),
            "workload": {"model": served.model, **asdict(workload)},
        }
        title = _title(workload, served, measured)
        if measured.process is not None and memory:
            costs = run(_measure_memory(measured.process, workload, served, models, rounds))
            report, draw = memory_report(title, costs), None
            document |= {"memory": asdict(costs)}
        else:
            result = run(_measure_loads(measured, workload, served, plan))
            report, draw = loads_report(title, result), partial(draw_result, title, result)
            document |= {"plan": asdict(plan), **asdict(result)}
    shared.publish(document, report, draw)


async def _measure_loads(
    server: MeasuredServer, workload: Workload, model: ModelCapabilities, plan: ServePlan
) -> ServeResult:
    own = server.process is not None
    async with open_session(server.address, workload, model, own=own) as session:
        return await measure(Bench(server, session, plan, Clock()))


async def _measure_memory(
    process: ServerProcess, workload: Workload, model: ModelCapabilities, models: int, rounds: int
) -> MemoryResult:
    async with open_session(process.address, workload, model, own=True) as session:
        return await measure_memory(session, process, models, rounds)


def _refuse(parameters: Iterable[str], why: str) -> None:
    """Raise `UsageError` when one of the parameters was given on the command line."""
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in parameters:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flags[name]} {why}")


def _title(workload: Workload, model: ModelCapabilities, server: MeasuredServer) -> str:
    return (
        f"{model.model}, {workload.way}-way {workload.shot}-shot, {workload.step_count} steps, "
        f"{workload.images} queries a call, {workload.batch_norm_mode}, "
        f"on {server.capabilities.device_name or server.capabilities.device}"
    )
