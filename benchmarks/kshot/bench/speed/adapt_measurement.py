"""What `kshot bench adapt` measures: its contenders' rounds, the floor, and further forms."""

from dataclasses import asdict, dataclass, field
from statistics import median

from kshot.bench.report import Report, say
from kshot.bench.speed.adapt_contenders import contenders, kshot_loop
from kshot.bench.speed.all_cores import AllCores
from kshot.bench.speed.arithmetic_floor import (
    conv4_multiply_adds,
    gflop_per_second,
    matrix_products,
    step_flop,
)
from kshot.bench.speed.timed_task import TimedTask
from kshot.bench.speed.timing import RATIO_METHOD, against_kshot, interleave, percentiles, ratio
from kshot.learner import InnerStep

TITLES = {
    "kshot": "kshot",
    "eager": "plain PyTorch loop",
    "eager_fused": "… with fused Adam",
    "jax": "JAX: jit, scan, im2col",
}


@dataclass(frozen=True)
class Measurement:
    """Milliseconds of each contender's and product's rounds by name, and the operations.

    `stacked` are rounds of `tasks` tasks that step together, `all_cores` those of many processes,
    where they were asked for.
    """

    samples: dict[str, list[float]]
    products: dict[str, list[float]]
    flop: int
    tasks: int = 0
    stacked: list[float] = field(default_factory=list)
    all_cores: AllCores | None = None

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
            self.samples, TITLES, "ms", lambda values: asdict(percentiles(values))
        )
        document |= {
            "flop": self.flop,
            "product_gflop_per_second": {
                name: gflop_per_second(samples) for name, samples in self.products.items()
            },
            "floor_ms": self.floor_ms,
            "ratio_to_floor": median(self.samples["kshot"]) / self.floor_ms,
            "stacked": None,
            "all_cores": self.all_cores.document(list(TITLES)) if self.all_cores else None,
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
            rows.append((TITLES[name], *times.cells(1), *ratios))
        rows.append(("the floor", f"{floor:.1f}", "", "", "", "1.00"))
        if self.tasks:
            each = median(self.stacked) / self.tasks
            ratios = (f"{1 / self.ratio_vs_alone:.2f}", f"{each / floor:.2f}")
            rows.insert(1, (f"… {self.tasks} tasks, each", f"{each:.2f}", "", "", *ratios))
        rates = ", ".join(
            f"{name} {gflop_per_second(samples):.0f}" for name, samples in self.products.items()
        )
        notes = [
            f"Times kshot: the {RATIO_METHOD}, of {len(kshot)} rounds.",
            f"The floor: {self.flop / 1e9:.2f} GFLOP at the best rate of a matrix product "
            f"(GFLOP/s: {rates}).",
        ]
        if self.all_cores:
            notes.append(self.all_cores.note(TITLES))
        headings = ("", "p50, ms", "p95", "p99", "times kshot", "times floor")
        return Report(title, headings, rows, notes)


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
    alone = contenders(task, step, with_jax=with_jax)
    products = matrix_products(task.device)
    say(f"warming up, then {rounds} rounds")
    together = {"stacked": kshot_loop(task, wide[1], wide[0])} if wide else {}
    samples = interleave({**alone, **together, **products}, rounds)
    multiply_adds = conv4_multiply_adds(task.network, task.size.way)
    return Measurement(
        {name: samples[name] for name in alone},
        {name: samples[name] for name in products},
        task.size.step_count * step_flop(multiply_adds, task.size.batch_size),
        wide[0] if wide else 0,
        samples.get("stacked", []),
    )
