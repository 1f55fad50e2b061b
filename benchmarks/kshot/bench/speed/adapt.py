"""`kshot bench adapt`: one adaptation, in this process, beside its alternatives."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
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
from kshot.bench.report import Report, say
from kshot.bench.speed.accuracy_curve import draw_accuracy, handwriting, measure_accuracy
from kshot.bench.speed.adapt_contenders import inner_step, kshot_loop, kshot_spec, plain
from kshot.bench.speed.arithmetic_floor import (
    conv4_multiply_adds,
    gflop_per_second,
    matrix_products,
    step_flop,
)
from kshot.bench.speed.timed_task import Size, TimedTask, generated_task, open_initialization
from kshot.bench.speed.timing import RATIO_METHOD, against_kshot, interleave, percentiles, ratio
from kshot.learner import InnerStep
from kshot.trainer.commands.options import choose_data_folder, data_option, find_bundle
from kshot.trainer.tasks.episodes import check_episodes

_TITLES = {
    "kshot": "kshot",
    "eager": "plain PyTorch loop",
    "eager_fused": "… with fused Adam",
    "jax": "JAX: jit, scan, im2col",
}


@dataclass(frozen=True)
class Measurement:
    """Milliseconds of each contender's and product's rounds by name, and the operations.

    `stacked` are rounds of `tasks` tasks that step together, where those were asked for.
    """

    samples: dict[str, list[float]]
    products: dict[str, list[float]]
    flop: int
    tasks: int = 0
    stacked: list[float] = field(default_factory=list)

    @property
    def floor_ms(self) -> float:
        """Return the time of the operations at the rate of the fastest matrix product."""
        fastest = min(min(samples) for samples in self.products.values())
        return self.flop / gflop_per_second([fastest]) / 1e6

    @property
    def ratio_vs_alone(self) -> float:
        """Return how much faster stacked tasks are than one after another."""
        return self.tasks * ratio(self.samples["kshot"], self.stacked)

    def document(self) -> dict[str, object]:
        """Return the measurement for JSON; times of stacked tasks are of all, unless per task."""
        document = against_kshot(
            self.samples, _TITLES, "ms", lambda values: asdict(percentiles(values))
        )
        document |= {
            "flop": self.flop,
            "product_gflop_per_second": {
                name: gflop_per_second(samples) for name, samples in self.products.items()
            },
            "floor_ms": self.floor_ms,
            "ratio_to_floor": median(self.samples["kshot"]) / self.floor_ms,
            "stacked": None,
        }
        if self.tasks:
            document["stacked"] = {
                "tasks": self.tasks,
                "ms": asdict(percentiles(self.stacked)),
                "ms_per_task": median(self.stacked) / self.tasks,
                "adaptations_per_second": 1e3 * self.tasks / median(self.stacked),
                "ratio_vs_alone": self.ratio_vs_alone,
            }
        return document

    def report(self, title: str) -> Report:
        """Return the measurement as a table."""
        kshot, floor = self.samples["kshot"], self.floor_ms
        rows = []
        for name, samples in self.samples.items():
            times = percentiles(samples)
            ratios = (f"{ratio(samples, kshot):.2f}", f"{times.p50 / floor:.2f}")
            rows.append((_TITLES[name], *times.cells(1), *ratios))
        rows.append(("the floor", f"{floor:.1f}", "", "", "", "1.00"))
        if self.tasks:
            each = median(self.stacked) / self.tasks
            ratios = (f"{1 / self.ratio_vs_alone:.2f}", f"{each / floor:.2f}")
            rows.insert(1, (f"… {self.tasks} tasks, each", f"{each:.2f}", "", "", *ratios))
        rates = ", ".join(
            f"{name} {gflop_per_second(samples):.0f}" for name, samples in self.products.items()
        )
        notes = (
            f"Times kshot: the {RATIO_METHOD}, of {len(kshot)} rounds.",
            f"The floor: {self.flop / 1e9:.2f} GFLOP at the best rate of a matrix product "
            f"(GFLOP/s: {rates}).",
        )
        headings = ("", "p50, ms", "p95", "p99", "times kshot", "times floor")
        return Report(title, headings, rows, notes)


@click.command("adapt")
@option("--step-count", type=COUNT, default=50)
@click.option("--batch-size", type=COUNT, help="[default: the bundle's for this way]")
@click.option(
    "--tasks", type=click.IntRange(min=2), help="Measure kshot with this many tasks together too."
)
@data_option
@shared_options("bundle_name", "way", "shot", "rounds", "threads", "compiled", "jax", "plot")
def command(
    step_count: int,
    batch_size: int | None,
    tasks: int | None,
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


def measure(
    task: TimedTask,
    step: InnerStep,
    rounds: int,
    *,
    with_jax: bool,
    wide: tuple[int, InnerStep] | None = None,
) -> Measurement:
    """Time all contenders and the matrix products in turns.

    `step` is kshot's inner step of one task, `wide` a number of tasks and the step of so many.
    """
    contenders: dict[str, Callable[[], object]] = {
        "kshot": kshot_loop(task, step),
        "eager": plain(task),
        "eager_fused": plain(task, fused=True),
    }
    if with_jax:
        from kshot.bench.speed.jax_contenders import jax_adapt

        contenders["jax"] = jax_adapt(task)
    products = matrix_products(task.device)
    say(f"warming up, then {rounds} rounds")
    together = {"stacked": kshot_loop(task, wide[1], wide[0])} if wide else {}
    samples = interleave({**contenders, **together, **products}, rounds)
    multiply_adds = conv4_multiply_adds(task.network, task.size.way)
    return Measurement(
        {name: samples[name] for name in contenders},
        {name: samples[name] for name in products},
        task.size.step_count * step_flop(multiply_adds, task.size.batch_size),
        wide[0] if wide else 0,
        samples.get("stacked", []),
    )
