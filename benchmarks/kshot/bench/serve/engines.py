"""`kshot bench engines`: a server's gain by further engines, beside independent processes."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from kshot.bench.environment import environment
from kshot.bench.options import (
    COUNT,
    Shared,
    check_limits,
    gathered,
    option,
    read_counts,
    read_positive,
    shared_options,
)
from kshot.bench.report import Report, say
from kshot.bench.serve.engine_turns import EngineCount, compare, take_turns
from kshot.bench.serve.load_generator import run
from kshot.bench.serve.plan import ServePlan
from kshot.bench.serve.requests import Workload
from kshot.bench.serve.server_process import ROOMY, interrupted_by_signals, running_server, settle
from kshot.bench.speed.adapt_contenders import in_process, inner_step, kshot_spec
from kshot.bench.speed.copies import running_copies
from kshot.bench.speed.timed_task import Size, generated_task, open_initialization
from kshot.client.client import DEFAULT_TIMEOUT_S
from kshot.trainer.commands.options import find_bundle


@click.command("engines")
@option("--engines", callback=read_counts, default="1,2", help="Engines of each server.")
@option("--callers", type=COUNT, default=8, help="Callers that adapt without pause.")
@option("--step-count", type=COUNT, default=50)
@option("--seconds", type=float, callback=read_positive, default=5.0, help="Length of each load.")
@option("--turns", type=COUNT, default=4, help="Parts of each load, in turns with the others.")
@shared_options("bundle_name", "way", "shot")
def command(
    engines: tuple[int, ...],
    callers: int,
    step_count: int,
    **given: Any,  # noqa: ANN401 -- the options' own types
) -> None:
    """Count adaptations a second of servers with different numbers of engines.

    Beside them, in turns, the yardstick: as many processes with kshot's inner loop and nothing
    else, each on one core and one thread. Gains are to the first number.
    """
    shared = gathered(Shared, given)
    plan = gathered(ServePlan, given | {"concurrency": (callers,)})
    bundle = find_bundle(shared.bundle_name)
    manifest = bundle.manifest
    size = Size(shared.way, shared.shot, step_count, manifest.default_batch_size(shared.way))
    owner = f"bundle {manifest.name}"
    check_limits(manifest.limits, owner, way=size.way, shot=size.shot, step_count=step_count)
    device = shared.choose_device()
    task = generated_task(manifest, open_initialization(bundle, device), size)
    _, compiled = inner_step(kshot_spec(task), device, None)  # the copies find it in the cache
    described = environment()
    make = partial(in_process, bundle.path, size, device.type, compiled=compiled, with_jax=False)
    with interrupted_by_signals(), ExitStack() as stack:
        copies = stack.enter_context(running_copies(make, max(engines)))
        servers = {}
        for count in engines:
            say(f"starting a server of {manifest.name}, engines: {count}")
            running = running_server(bundle.path, shared.device, ROOMY, engines=count)
            servers[count] = stack.enter_context(running)
        for server in servers.values():
            with server.endpoint.client(DEFAULT_TIMEOUT_S) as client:
                model = settle(client, server).models[manifest.name]
        workload = Workload(size.way, size.shot, step_count)
        told = compare(*run(take_turns(servers, copies, workload, model, plan)))
    document = {
        "environment": described,
        "device": device.type,
        "workload": {"model": model.model, **asdict(size)},
        "plan": {"callers": callers, "seconds": plan.seconds, "turns": plan.turns},
        "compiled": compiled,
        "engines": [asdict(each) for each in told],
    }
    title = (
        f"{manifest.name}, {size.way}-way {size.shot}-shot, {step_count} steps, "
        f"{callers} callers, on {device.type}"
    )
    shared.publish(document, _report(title, told))


def _report(title: str, told: Sequence[EngineCount]) -> Report:
    headings = ("engines", "adaptations/s", "gain", "copies/s", "gain", "engines' / copies'")
    rows = [
        (
            f"{each.engines}",
            f"{each.adaptations_per_second:.1f}",
            f"{each.gain:.2f}",
            f"{each.copies_per_second:.1f}",
            f"{each.copies_gain:.2f}",
            f"{each.gain_ratio:.2f}",
        )
        for each in told
    ]
    note = (
        "Copies are processes with kshot's inner loop and nothing else, one core and thread each. "
        "Gains are to the first row, medians of the turns' ratios."
    )
    return Report(title, headings, rows, (note,))
