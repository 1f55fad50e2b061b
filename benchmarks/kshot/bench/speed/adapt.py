"""`kshot bench adapt`: one adaptation, in this process, beside what else one would run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from kshot.bench.environment import environment
from kshot.bench.options import (
    bundle_option,
    choose_device,
    choose_jax,
    compile_option,
    device_option,
    jax_option,
    json_option,
    open_bundle,
    plot_option,
    rounds_option,
    threads_option,
)
from kshot.bench.plot import check_plot, write_plot
from kshot.bench.report import print_document, print_report, say
from kshot.bench.speed.accuracy import draw_accuracy, measure_accuracy
from kshot.bench.speed.arithmetic_floor import (
    conv4_layers,
    gflop_per_second,
    matrix_products,
    step_flop,
)
from kshot.bench.speed.contenders import inner_step, jax_loop, kshot_loop, kshot_spec, plain
from kshot.bench.speed.stacked import Stacked, stacked_loop
from kshot.bench.speed.timed_tasks import (
    AdaptTask,
    Size,
    generated_task,
    handwriting,
    open_initialization,
)
from kshot.bench.speed.timing import interleave, percentiles, ratio
from kshot.bundle import Manifest
from kshot.learner import InnerStep
from kshot.trainer.commands.options import choose_data_folder
from kshot.trainer.tasks.episodes import check_episodes

__all__ = ["Measurement", "command", "measure"]

_RATIO_METHOD = "median of the rounds' ratios"
_STACK = "stacked"
_TITLES = {
    "kshot": "kshot",
    "eager": "plain PyTorch loop",
    "eager_fused": "… with fused Adam",
    "jax": "JAX: jit, scan, im2col",
}


@dataclass(frozen=True)
class Measurement:
    """Milliseconds of each contender's rounds by name, and the operations of one adaptation.

    ``stacked`` is what many tasks together took, where that was asked for.
    """

    samples: dict[str, list[float]]
    products: dict[str, list[float]]
    flop: int
    stacked: Stacked | None = None

    def floor_ms(self) -> float:
        """Return the time of the operations at the rate of the fastest matrix product."""
        return self.flop / gflop_per_second(_together(self.products)) / 1e6

    def document(self) -> dict[str, object]:
        """Lay out the measurement for JSON; ratios above 1 say that kshot is the faster."""
        kshot = self.samples["kshot"]
        document: dict[str, object] = {}
        for name in _TITLES:
            samples = self.samples.get(name)
            document[f"{name}_ms"] = percentiles(samples).document() if samples else None
            if name != "kshot":
                document[f"ratio_vs_{name}"] = ratio(samples, kshot) if samples else None
        floor = self.floor_ms()
        return document | {
            "ratio_method": _RATIO_METHOD,
            "flop": self.flop,
            "product_gflop_per_second": {
                name: gflop_per_second(samples) for name, samples in self.products.items()
            },
            "floor_ms": floor,
            "ratio_to_floor": percentiles(kshot).p50 / floor,
            "stacked": self.stacked.document(kshot) if self.stacked else None,
        }


@dataclass(frozen=True)
class Wide:
    """The inner step of so many tasks at once."""

    tasks: int
    step: InnerStep


@click.command("adapt")
@bundle_option
@click.option("--way", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--shot", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--step-count", type=click.IntRange(min=1), default=50, show_default=True)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="[default: the bundle's for this way]"
)
@click.option(
    "--tasks",
    type=click.IntRange(min=2),
    help="Let kshot also adapt so many tasks that step together.",
)
@rounds_option
@device_option
@threads_option
@compile_option
@jax_option
@json_option
@plot_option
@click.option(
    "--data",
    "data_folder",
    type=click.Path(path_type=Path),
    envvar="KSHOT_DATA",
    metavar="DIR",
    help="Folder with the data sets, for the plot's accuracies. [env: KSHOT_DATA]",
)
def command(
    bundle_name: str,
    way: int,
    shot: int,
    step_count: int,
    batch_size: int | None,
    tasks: int | None,
    rounds: int,
    device: str,
    threads: int,
    compiled: bool | None,
    jax: bool | None,
    as_json: bool,
    plot: Path | None,
    data_folder: Path | None,
) -> None:
    """Time one adaptation with kshot, with a plain PyTorch loop, with JAX, and its floor.

    All take turns in this process on the same batches of generated images, without a server. The
    plain loop is plain_loop.py beside this file. The floor is the adaptation's multiply-adds at the
    rate of the machine's best matrix product. The plot shows what the steps buy: accuracy on
    Omniglot where --data holds it, else on scikit-learn's digits.
    """
    check_plot(plot)
    bundle = open_bundle(bundle_name)
    manifest = bundle.manifest
    size = Size(way, shot, step_count, batch_size or manifest.default_batch_size(way))
    _check_size(manifest, size)
    chosen = choose_device(device, threads)
    with_jax = choose_jax(jax, chosen, threads)
    # Before the measurement: what is wrong with the data should not cost its time.
    folder = choose_data_folder(data_folder) if data_folder else None
    dataset = handwriting(bundle, folder) if plot else None
    if dataset is not None:
        check_episodes(dataset, way, shot, 1)
    task = generated_task(manifest, open_initialization(bundle, chosen), size)
    spec = kshot_spec(task)
    step, is_compiled = inner_step(spec, chosen, compiled)
    # Either all of kshot is compiled or nothing.
    wide = Wide(tasks, inner_step(spec.of_tasks(tasks), chosen, is_compiled)[0]) if tasks else None
    measurement = measure(task, step, rounds, with_jax=with_jax, wide=wide)
    document = {
        "device": chosen.type,
        **measurement.document(),
        "rounds": rounds,
        "options": {
            "bundle": f"{manifest.name}/{manifest.version}",
            **asdict(size),
            "preconditioner": task.preconditioner,
            "compiled": is_compiled,
            "threads": threads,
        },
        "environment": environment(),
    }
    if plot and dataset is not None:
        points = measure_accuracy(task, step, dataset, rounds)
        title = f"{manifest.name}, {way}-way {shot}-shot, {dataset.name}"
        write_plot(plot, lambda figure: draw_accuracy(figure, points, title))
        document["accuracy"] = [asdict(point) for point in points]
    if as_json:
        print_document(document)
    else:
        _print(measurement, size, chosen)


def measure(
    task: AdaptTask, step: InnerStep, rounds: int, *, with_jax: bool, wide: Wide | None = None
) -> Measurement:
    """Time all contenders, kshot with the inner steps given, and the matrix products in turns."""
    contenders: dict[str, Callable[[], object]] = {
        "kshot": kshot_loop(task, step),
        "eager": plain(task),
        "eager_fused": plain(task, fused=True),
    }
    if with_jax:
        contenders["jax"] = jax_loop(task)
    products = matrix_products(task.device)
    say(f"warming up, then {rounds} rounds")
    stack = {_STACK: stacked_loop(task, wide.step, wide.tasks)} if wide else {}
    samples = interleave({**contenders, **stack, **products}, rounds)
    layers = conv4_layers(task.network, task.size.way)
    return Measurement(
        {name: samples[name] for name in contenders},
        {name: samples[name] for name in products},
        task.size.step_count * step_flop(layers, task.size.batch_size),
        Stacked(wide.tasks, samples[_STACK]) if wide else None,
    )


def _check_size(manifest: Manifest, size: Size) -> None:
    """Raise ``UsageError`` for what the bundle does not allow a request either."""
    limits = manifest.limits
    for name, value, most in (
        ("--way", size.way, limits.max_way),
        ("--step-count", size.step_count, limits.max_step_count),
        ("--way times --shot", size.way * size.shot, limits.max_support_count),
    ):
        if value > most:
            raise click.UsageError(
                f"{name} is {value}, wanted at most {most}, the limit of bundle {manifest.name}"
            )
    sizes = manifest.inner_loop.batch_sizes
    if size.batch_size not in sizes:
        wanted = ", ".join(map(str, sizes))
        raise click.UsageError(
            f"--batch-size is {size.batch_size}, wanted one that bundle {manifest.name} allows: "
            f"{wanted}"
        )


def _together(samples: dict[str, list[float]]) -> list[float]:
    return [value for values in samples.values() for value in values]


def _print(measurement: Measurement, size: Size, device: torch.device) -> None:
    kshot, floor = measurement.samples["kshot"], measurement.floor_ms()
    rows = []
    for name, samples in measurement.samples.items():
        times = percentiles(samples)
        slower = f"{ratio(samples, kshot):.2f}"
        to_floor = f"{times.p50 / floor:.2f}"
        cells = [f"{value:.1f}" for value in (times.p50, times.p95, times.p99)]
        rows.append((_TITLES[name], *cells, slower, to_floor))
    rows.append(("the floor", f"{floor:.1f}", "", "", "", "1.00"))
    if (stacked := measurement.stacked) is not None:
        each = stacked.ms_per_task
        ahead = f"{1 / stacked.ratio_vs_alone(kshot):.2f}"
        title = f"… {stacked.tasks} tasks, each"
        rows.insert(1, (title, f"{each:.2f}", "", "", ahead, f"{each / floor:.2f}"))
    rates = ", ".join(
        f"{name} {gflop_per_second(samples):.0f}" for name, samples in measurement.products.items()
    )
    print_report(
        f"One adaptation on {device.type}: {size.way}-way {size.shot}-shot, "
        f"{size.step_count} steps, batch {size.batch_size}",
        ("", "p50, ms", "p95", "p99", "times kshot", "times floor"),
        rows,
        (
            f"Times kshot: the {_RATIO_METHOD}, of {len(kshot)} rounds.",
            f"The floor: {measurement.flop / 1e9:.2f} GFLOP at the best rate of a matrix product "
            f"(GFLOP/s: {rates}).",
        ),
    )
