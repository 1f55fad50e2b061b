"""`kshot bench adapt`: one adaptation, in this process, beside its alternatives."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from kshot.bench.options import (
    COUNT,
    Shared,
    check_choice,
    check_limits,
    gathered,
    option,
    shared_options,
)
from kshot.bench.plot import check_plot
from kshot.bench.speed.accuracy_curve import draw_accuracy, handwriting, measure_accuracy
from kshot.bench.speed.adapt_contenders import inner_step, kshot_spec
from kshot.bench.speed.adapt_measurement import measure
from kshot.bench.speed.all_cores import measure_all_cores
from kshot.bench.speed.timed_task import Size, generated_task, open_initialization
from kshot.trainer.commands.options import choose_data_folder, data_option, find_bundle
from kshot.trainer.tasks.episodes import check_episodes


@click.command("adapt")
@option("--step-count", type=COUNT, default=50)
@click.option("--batch-size", type=COUNT, help="[default: the bundle's for this way]")
@click.option(
    "--tasks", type=click.IntRange(min=2), help="Measure kshot with this many tasks together too."
)
@click.option(
    "--processes",
    type=COUNT,
    help="Measure so many processes of each contender at once too, each on one core and thread.",
)
@data_option
@shared_options("bundle_name", "way", "shot", "rounds", "threads", "compiled", "jax", "plot")
def command(
    step_count: int,
    batch_size: int | None,
    tasks: int | None,
    processes: int | None,
    data_folder: Path | None,
    **given: Any,  # noqa: ANN401 -- the shared options' own types
) -> None:
    """Time one adaptation with kshot, a plain PyTorch loop and JAX, and compute its floor.

    All take turns in this process on the same batches of generated images, without a server. The
    plain loop is plain_loop.py beside this file. The floor is the adaptation's multiply-adds at the
    rate of the machine's best matrix product. The plot shows accuracy over steps: on Omniglot when
    --data holds it, otherwise on scikit-learn's digits.
    """
    shared = gathered(Shared, given)
    check_plot(shared.plot)
    bundle = find_bundle(shared.bundle_name)
    manifest = bundle.manifest
    batch_size = batch_size or manifest.default_batch_size(shared.way)
    size = Size(shared.way, shared.shot, step_count, batch_size)
    limits, owner = manifest.limits, f"bundle {manifest.name}"
    check_limits(limits, owner, way=size.way, shot=size.shot, step_count=step_count)
    check_choice("--batch-size", batch_size, manifest.inner_loop.batch_sizes, owner)
    device = shared.choose_device()
    if processes and device.type != "cpu":
        raise click.UsageError(f"--processes: expected device cpu, got {device.type}")
    with_jax = shared.choose_jax(device)
    # Before the measurement: wrong data should not cost its time.
    folder = choose_data_folder(data_folder) if data_folder else None
    dataset = handwriting(bundle, folder) if shared.plot else None
    if dataset is not None:
        check_episodes(dataset, size.way, size.shot, 1)
    task = generated_task(manifest, open_initialization(bundle, device), size)
    spec = kshot_spec(task)
    step, compiled = inner_step(spec, device, shared.compiled)
    # Either all of kshot is compiled or nothing.
    wide = (tasks, inner_step(spec.of_tasks(tasks), device, compiled)[0]) if tasks else None
    measurement = measure(task, step, shared.rounds, with_jax=with_jax, wide=wide)
    if processes:
        many = measure_all_cores(
            bundle.path, size, processes, shared.rounds, compiled=compiled, with_jax=with_jax
        )
        measurement = replace(measurement, all_cores=many)
    options = {
        "bundle": f"{manifest.name}/{manifest.version}",
        **asdict(size),
        "preconditioner": manifest.inner_loop.preconditioner,
        "compiled": compiled,
    }
    document = shared.document(device, measurement.document(), options)
    points = measure_accuracy(task, step, dataset, shared.rounds) if dataset else []
    if points:
        document["accuracy"] = [asdict(point) for point in points]
    title = f"{size.way}-way {size.shot}-shot"
    report = measurement.report(
        f"One adaptation on {device.type}: {title}, {step_count} steps, batch {batch_size}"
    )
    plot_title = f"{manifest.name}, {title}, {dataset.name if dataset else ''}"
    shared.publish(document, report, lambda figure: draw_accuracy(figure, points, plot_title))
