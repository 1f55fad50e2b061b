"""`kshot bench serve`: a real server under load, over the wire."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

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
from kshot.bench.report import say
from kshot.bench.serve.load_generator import ARRIVALS, Clock, run
from kshot.bench.serve.measurement import ServeResult, measure
from kshot.bench.serve.memory import MemoryResult, measure_memory
from kshot.bench.serve.plan import Bench, ServePlan
from kshot.bench.serve.process_usage import resident_bytes
from kshot.bench.serve.requests import Workload, check_workload, choose_model
from kshot.bench.serve.server_calls import open_session, try_out
from kshot.bench.serve.server_process import (
    ROOMY,
    ServerProcess,
    interrupted_by_signals,
    running_server,
    settle,
)
from kshot.bench.serve.tables import draw_result, loads_report, memory_report
from kshot.client import Capabilities
from kshot.client.client import DEFAULT_TIMEOUT_S
from kshot.client.commands.options import Server, server_options
from kshot.trainer.commands.options import find_bundle

_MAX_ARRIVALS = 1_000_000
_NOT_WITH_SERVER = ("bundle_name", "device", "memory")
_ONLY_WITH_MEMORY = ("models", "rounds")
_NOT_WITH_MEMORY = (
    *("concurrency", "rate", "arrivals", "seconds", "turns", "adapted_models", "step_counts"),
    "plot",
)


@click.command("serve")
@server_options(
    None, "Measure this running server.  [default: a new server on a free loopback port]"
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
@option("--turns", type=COUNT, default=4, help="Parts of each load that is compared with others.")
@option(
    "--adapted-models", type=COUNT, default=1, help="Adapted models that predictions go to in turn."
)
@option("--step-count", type=COUNT, default=10)
@option(
    "--step-counts",
    callback=read_counts,
    default="1,5,10,50",
    help="Steps of Adapt by steps, between commas.",
)
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
    server: Server | None,
    model: str | None,
    memory: bool,
    models: int,
    rounds: int,
    **given: Any,  # noqa: ANN401 -- the options' own types
) -> None:
    """Measure the latency of Adapt and Predict under load, over loopback.

    Loads: closed loops, in which each caller sends the next call when the last is answered; an open
    loop, in which calls arrive at a rate and latency counts from when they were due, so that a
    stall shows in every call that it delays; in turns, one caller's Adapt by steps; in turns,
    predictions alone and beside adaptations; and in turns, Predict of the bench's own server and of
    a bare gRPC server that answers with the same bytes under the heaviest load. The bench's own
    server keeps its adapted models in a temporary folder (see TMPDIR) and takes its other
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
    running: AbstractContextManager[ServerProcess | None] = nullcontext()
    if server is None:
        bundle = find_bundle(shared.bundle_name)
        say(f"starting a server of {bundle.manifest.name}")
        running = running_server(bundle.path, shared.device, ROOMY)
    with interrupted_by_signals(), running as own:
        place = own.endpoint if own is not None else cast(Server, server)
        with place.client(DEFAULT_TIMEOUT_S) as client:
            capabilities = settle(client, own)
        served = choose_model(capabilities, model)
        check_workload(workload, served)
        resolved = try_out(place, workload, served)
        workload = replace(workload, batch_norm_mode=resolved.batch_norm_mode)
        document: dict[str, object] = {
            "environment": environment(),
            "server": {
                "address": place.address,
                "own": own is not None,
                "version": capabilities.server_version,
                "device": capabilities.device,
                "device_name": capabilities.device_name,
                "compute_path": capabilities.compute_path,
                "engines": capabilities.engine_count,
            },
            "workload": {"model": served.model, **asdict(workload)},
        }
        title = _title(workload, capabilities, served.model)

        async def in_session() -> MemoryResult | ServeResult:
            async with open_session(place, workload, served, own=own is not None) as session:
                if own is not None and memory:
                    return await measure_memory(session, own, models, rounds)
                return await measure(Bench(own, session, workload, plan, Clock()))

        result = run(in_session())
        if isinstance(result, MemoryResult):
            report, draw = memory_report(title, result), None
            document |= {"memory": asdict(result)}
        else:
            report, draw = loads_report(title, result), partial(draw_result, title, result)
            document |= {"plan": asdict(plan), **asdict(result)}
    shared.publish(document, report, draw)


def _refuse(parameters: Iterable[str], why: str) -> None:
    """Raise `UsageError` when one of the parameters was given on the command line."""
    context = click.get_current_context()
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in parameters:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flags[name]} {why}")


def _title(workload: Workload, server: Capabilities, model: str) -> str:
    return (
        f"{model}, {workload.way}-way {workload.shot}-shot, {workload.step_count} steps, "
        f"{workload.images} queries a call, {workload.batch_norm_mode}, "
        f"on {server.device_name or server.device}"
    )
