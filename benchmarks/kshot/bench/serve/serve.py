"""`kshot bench serve`: a real server under load, over the wire."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial

import click

from kshot.bench.environment import environment
from kshot.bench.options import (
    COUNT,
    Shared,
    open_bundle,
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

_MAX_ARRIVALS = 1_000_000
_NOT_WITH_SERVER = ("bundle_name", "device", "memory")
_ONLY_WITH_MEMORY = ("models", "rounds")
_NOT_WITH_MEMORY = ("concurrency", "rate", "arrivals", "seconds", "adapted_models", "plot")


@click.command("serve")
@click.option(
    "--server",
    metavar="HOST:PORT",
    help="Measure this running server. [default: a new server on a free loopback port]",
)
@click.option("--model", metavar="NAME", help="Model to adapt. [default: the only one served]")
@click.option(
    "--concurrency",
    callback=read_counts,
    default="1,8,64",
    show_default=True,
    help="Callers of each closed loop, between commas.",
)
@click.option(
    "--rate",
    type=float,
    callback=read_positive,
    help="Calls per second of the open loops. [default: half of the closed loops' best rate]",
)
@click.option(
    "--arrivals",
    type=click.Choice(ARRIVALS),
    default="poisson",
    show_default=True,
    help="Spacing of an open loop's calls.",
)
@click.option(
    "--seconds",
    type=float,
    callback=read_positive,
    default=5.0,
    show_default=True,
    help="Length of each load.",
)
@click.option(
    "--adapted-models",
    type=COUNT,
    default=1,
    show_default=True,
    help="Adapted models that predictions go to in turn.",
)
@click.option("--step-count", type=COUNT, default=10, show_default=True)
@click.option(
    "--images", type=COUNT, default=1, show_default=True, help="Queries of each call to Predict."
)
@click.option(
    "--memory",
    is_flag=True,
    help="Measure memory and disk instead: over --rounds of adapt, predict and delete, then with "
    "--models adapted models kept.",
)
@click.option("--models", type=COUNT, default=1000, show_default=True)
@click.option("--rounds", type=COUNT, default=2000, show_default=True)
@shared_options("bundle_name", "device", "way", "shot", "batch_norm_mode", "as_json", "plot")
@click.pass_context
def command(
    context: click.Context,
    server: str | None,
    model: str | None,
    concurrency: tuple[int, ...],
    rate: float | None,
    arrivals: str,
    seconds: float,
    adapted_models: int,
    step_count: int,
    images: int,
    memory: bool,
    models: int,
    rounds: int,
    shared: Shared,
) -> None:
    """Measure the latency of Adapt and Predict under load, over loopback.

    Three loads: closed loops, in which each caller sends the next call when the last is answered;
    an open loop, in which calls arrive at a rate and latency counts from when they were due, so
    that a stall shows in every call that it delays; and predictions beside adaptations. The bench's
    own server keeps its adapted models in a temporary folder (see TMPDIR) and takes its other
    settings from KSHOT_... variables. The bench deletes the adapted models that it makes.
    """
    if server is not None:
        _refuse(context, _NOT_WITH_SERVER, "cannot be combined with --server")
    if memory:
        _refuse(context, _NOT_WITH_MEMORY, "cannot be combined with --memory")
        resident_bytes(os.getpid())
    else:
        _refuse(context, _ONLY_WITH_MEMORY, "requires --memory")
    if rate is not None and rate * seconds > _MAX_ARRIVALS:
        raise click.UsageError(
            f"--rate: expected at most {_MAX_ARRIVALS} calls in all, got {rate:g} for {seconds:g} "
            "seconds"
        )
    check_plot(shared.plot)
    plan = ServePlan(concurrency, seconds, rate, arrivals, adapted_models)
    workload = Workload(shared.way, shared.shot, step_count, shared.batch_norm_mode, images)
    chosen = (
        other_server(server)
        if server
        else own_server(open_bundle(shared.bundle_name), shared.device)
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


def _refuse(context: click.Context, parameters: Iterable[str], why: str) -> None:
    """Raise `UsageError` when one of the parameters was given on the command line."""
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
