"""`kshot bench serve`: a real server under load, over the wire."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

import click

from kshot.bench.environment import environment
from kshot.bench.options import bundle_option, device_option, json_option, open_bundle, plot_option
from kshot.bench.plot import check_plot, write_plot
from kshot.bench.report import print_document
from kshot.bench.serve.load import ARRIVALS, SystemClock, run
from kshot.bench.serve.loads import Bench, ServePlan, measure
from kshot.bench.serve.memory import MemoryResult, measure_memory
from kshot.bench.serve.options import read_counts, read_positive, refuse
from kshot.bench.serve.report import draw_result, print_memory, print_result
from kshot.bench.serve.results import ServeResult
from kshot.bench.serve.server_process import ServerProcess, interrupted_by_signals
from kshot.bench.serve.session import open_session, try_out
from kshot.bench.serve.target import Target, own_target, running_target
from kshot.bench.serve.usage import resident_bytes
from kshot.bench.serve.workload import Workload, check_workload, choose_model
from kshot.bundle import BatchNormMode
from kshot.client import ModelCapabilities

__all__ = ["command"]

_COUNT = click.IntRange(min=1)
_MOST_ARRIVALS = 1_000_000
_NOT_WITH_SERVER = {"bundle_name": "--bundle", "device": "--device", "memory": "--memory"}
_ONLY_WITH_MEMORY = {"models": "--models", "rounds": "--rounds"}
_NOT_WITH_MEMORY = {
    "concurrency": "--concurrency",
    "rate": "--rate",
    "arrivals": "--arrivals",
    "seconds": "--seconds",
    "adapted_models": "--adapted-models",
    "plot": "--plot",
}


@click.command("serve")
@click.option(
    "--server",
    metavar="HOST:PORT",
    help="A server that runs; by default one is started for the bench, on a free loopback port.",
)
@bundle_option
@device_option
@click.option("--model", metavar="NAME", help="What to adapt. [default: the only one served]")
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
    help="Calls per second of the open loops. [default: half of what the closed loops reached]",
)
@click.option(
    "--arrivals",
    type=click.Choice(ARRIVALS),
    default="poisson",
    show_default=True,
    help="How the calls of an open loop are spaced.",
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
    type=_COUNT,
    default=1,
    show_default=True,
    help="Adapted models that predictions go to in turn.",
)
@click.option("--way", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--shot", type=_COUNT, default=1, show_default=True)
@click.option("--step-count", type=_COUNT, default=10, show_default=True)
@click.option(
    "--batch-norm-mode",
    type=click.Choice([mode.value for mode in BatchNormMode]),
    help="[default: the model's]",
)
@click.option(
    "--images", type=_COUNT, default=1, show_default=True, help="Queries of each call to predict."
)
@click.option(
    "--memory",
    is_flag=True,
    help="Measure memory and disk instead: over --rounds of adapt, predict and delete, then of "
    "--models that are kept.",
)
@click.option("--models", type=_COUNT, default=1000, show_default=True)
@click.option("--rounds", type=_COUNT, default=2000, show_default=True)
@json_option
@plot_option
@click.pass_context
def command(
    context: click.Context,
    server: str | None,
    bundle_name: str,
    device: str,
    model: str | None,
    concurrency: tuple[int, ...],
    rate: float | None,
    arrivals: str,
    seconds: float,
    adapted_models: int,
    way: int,
    shot: int,
    step_count: int,
    batch_norm_mode: str | None,
    images: int,
    memory: bool,
    models: int,
    rounds: int,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure a server over loopback: Adapt and Predict, their latency under load.

    Closed loops (each caller sends the next call when the last is answered) at several numbers of
    callers; an open loop (calls arrive at a rate, and their latency counts from when they were due,
    so that a stall shows in every call that it delays); predictions beside adaptations. The bench's
    own server keeps its adapted models in a temporary folder (TMPDIR says where) and takes its
    other settings from KSHOT_... variables. What the bench makes on a server it deletes.
    """
    if server is not None:
        refuse(context, _NOT_WITH_SERVER, "does not go with --server: it is for the bench's own")
    if memory:
        refuse(context, _NOT_WITH_MEMORY, "does not go with --memory")
        resident_bytes(os.getpid())
    else:
        refuse(context, _ONLY_WITH_MEMORY, "goes with --memory only")
    if rate is not None and rate * seconds > _MOST_ARRIVALS:
        raise click.UsageError(
            f"--rate is {rate:g} for {seconds:g} seconds, wanted at most {_MOST_ARRIVALS} calls"
        )
    check_plot(plot)
    plan = ServePlan(concurrency, seconds, rate, arrivals, adapted_models)
    workload = Workload(way, shot, step_count, batch_norm_mode, images)
    chosen = running_target(server) if server else own_target(open_bundle(bundle_name), device)
    with interrupted_by_signals(), chosen as target:
        served = choose_model(target.capabilities, model)
        check_workload(workload, served)
        resolved = try_out(target.address, workload, served)
        workload = replace(workload, batch_norm_mode=resolved.batch_norm_mode)
        document: dict[str, object] = {
            "environment": environment(),
            "server": target.document(),
            "workload": {"model": served.model, **asdict(workload)},
        }
        title = _title(workload, served, target)
        if target.process is not None and memory:
            costs = run(_measure_memory(target.process, workload, served, models, rounds))
            document |= {"memory": asdict(costs)}
        else:
            result = run(_measure_loads(target, workload, served, plan))
            document |= {"plan": asdict(plan), **asdict(result)}
    if as_json:
        print_document(document)
    elif memory:
        print_memory(title, costs)
    else:
        print_result(title, result)
    if plot is not None:
        write_plot(plot, lambda figure: draw_result(figure, title, result))


async def _measure_loads(
    target: Target, workload: Workload, model: ModelCapabilities, plan: ServePlan
) -> ServeResult:
    own = target.process is not None
    async with open_session(target.address, workload, model, own=own) as session:
        return await measure(Bench(session, plan, SystemClock(), target.check, target.cpu))


async def _measure_memory(
    process: ServerProcess, workload: Workload, model: ModelCapabilities, models: int, rounds: int
) -> MemoryResult:
    async with open_session(process.address, workload, model, own=True) as session:
        return await measure_memory(session, process, models, rounds)


def _title(workload: Workload, model: ModelCapabilities, target: Target) -> str:
    return (
        f"{model.model}, {workload.way}-way {workload.shot}-shot, {workload.step_count} steps, "
        f"{workload.images} queries a call, {workload.batch_norm_mode}, "
        f"on {target.capabilities.device_name or target.capabilities.device}"
    )
