"""Figure 4: where FOMAML with a shared tail fails.

    python studies/figures/figure4.py --data DATA --out DIR

Nichol, Achiam, Schulman 2018 (arXiv 1803.02999v3), section 6.3: 5-way 5-shot Omniglot by Reptile
and by FOMAML, whose last mini-batch comes from the same examples as those before it (a shared tail)
or from others (a separate tail).

From the paper: the three panels, their methods, the 100 training examples of a task (5 classes, 20
shots), mini-batches of 25 and four inner steps where they are not varied, batches that cycle
through the examples or are drawn at random ("replacement"), and the claim that a shared tail fails
from five steps, or batches above 25, where the last batch has been seen before.

Everything else is ours, because the authors published no commands for this figure. Inner SGD and
the outer loop are those of figure 3. The values on the axes surround the point where the tails
begin to overlap. A separate tail keeps 5 of the 20 shots (25 examples) for the last step, so it is
as large as the default batch; its full batch is the other 75 examples.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.figures.command import main
from studies.figures.figure import Arm, Claim, Figure, FinalTasks, Panel, sweep
from studies.figures.panels import draw_sweep

FOMAML: dict[str, object] = {"outer.algorithm": "fomaml"}
REPLACEMENT: dict[str, object] = {"inner.sampling": "replacement"}
SEPARATE: dict[str, object] = {"task.tail_shot": 5}
METHODS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "reptile": ("Reptile", {}),
    "shared-cycling": ("FOMAML, shared tail, cycling", FOMAML),
    "shared-replacement": ("FOMAML, shared tail, replacement", FOMAML | REPLACEMENT),
    "separate-cycling": ("FOMAML, separate tail, cycling", FOMAML | SEPARATE),
    "separate-replacement": (
        "FOMAML, separate tail, replacement",
        FOMAML | REPLACEMENT | SEPARATE,
    ),
}
STEP_COUNTS = (2, 4, 5, 6, 8, 10)
STEP_SIZES = (0.125, 0.25, 0.5, 1.0)


def batch_sizes(method: str) -> tuple[int, ...]:
    """Return batch sizes up to the full batch: a separate tail leaves 75 examples."""
    sizes = (10, 25, 50, 75)
    return sizes if "separate" in method else (*sizes, 100)


def steps(method: str) -> tuple[Arm, ...]:
    """Make a line of panel (a)."""
    label, changes = METHODS[method]
    return sweep(f"steps-{method}", label, changes, "inner.step_count", STEP_COUNTS)


def batches(method: str) -> tuple[Arm, ...]:
    """Make a line of panel (b)."""
    label, changes = METHODS[method]
    return sweep(f"batch-{method}", label, changes, "inner.batch_size", batch_sizes(method))


def outer(method: str) -> tuple[Arm, ...]:
    """Make a line of panel (c): four steps on the full batch."""
    label, changes = METHODS[method]
    full = {**changes, "inner.batch_size": batch_sizes(method)[-1]}
    return sweep(f"outer-{method}", label, full, "outer.meta_step_size", STEP_SIZES)


def lines(panel: str, methods: Iterable[str] = METHODS) -> list[str]:
    """Name the lines of a panel."""
    return [f"{panel}-{method}" for method in methods]


CYCLING = ("reptile", "shared-cycling", "separate-cycling")


def far_below(text: str, point: str) -> Claim:
    """Claim that a shared tail is more than 5 points below a separate one."""
    panel, _, value = point.partition(" ")
    lower, higher = (f"{panel}-{tail}-cycling-{value}" for tail in ("shared", "separate"))
    return Claim(f"{text}: a shared tail is far below a separate one", lower, higher, 0.05)


def as_good(text: str, lower: str, higher: str) -> Claim:
    """Claim that the second arm is at most 3 points below the first."""
    return Claim(text, lower, higher, -0.03)


FIGURE = Figure(
    name="figure4",
    title="Shared and separate tails on Omniglot, 5-way 5-shot",
    arms=(
        *(arm for method in METHODS for arm in steps(method)),
        *(arm for method in METHODS for arm in batches(method)),
        *(arm for method in CYCLING for arm in outer(method)),
    ),
    panels=(
        Panel(draw_sweep, "(a) inner steps, batches of 25", "inner steps", lines("steps")),
        Panel(
            draw_sweep, "(b) batch size, four steps", "inner batch size, examples", lines("batch")
        ),
        Panel(
            draw_sweep,
            "(c) outer step size, full batch, four steps",
            "outer step size at the start",
            lines("outer", CYCLING),
            x_scale="log",
        ),
    ),
    claims=(
        far_below("5 steps", "steps 5"),
        far_below("8 steps", "steps 8"),
        far_below("10 steps", "steps 10"),
        as_good(
            "4 steps: a shared tail is as good as a separate one",
            "steps-separate-cycling-4",
            "steps-shared-cycling-4",
        ),
        Claim(
            "shared tail: 5 steps are below 4", "steps-shared-cycling-5", "steps-shared-cycling-4"
        ),
        Claim(
            "at 5 steps replacement falls less than cycling",
            "steps-shared-cycling-5",
            "steps-shared-replacement-5",
        ),
        as_good(
            "separate tail: 8 steps are as good as 4",
            "steps-separate-cycling-4",
            "steps-separate-cycling-8",
        ),
        as_good("Reptile: 8 steps are as good as 4", "steps-reptile-4", "steps-reptile-8"),
        as_good(
            "separate tail: 10 steps are as good as 4",
            "steps-separate-cycling-4",
            "steps-separate-cycling-10",
        ),
        as_good("Reptile: 10 steps are as good as 4", "steps-reptile-4", "steps-reptile-10"),
        far_below("batches of 75", "batch 75"),
        far_below("batches of 50", "batch 50"),
        as_good(
            "separate tail: batches of 75 are as good as of 25",
            "batch-separate-cycling-25",
            "batch-separate-cycling-75",
        ),
        as_good(
            "Reptile: batches of 100 are as good as of 25", "batch-reptile-25", "batch-reptile-100"
        ),
        far_below("outer step 0.25 on the full batch", "outer 0-25"),
        far_below("outer step 1 on the full batch", "outer 1"),
        as_good(
            "Reptile: outer step 1 on the full batch is as good as 0.25",
            "outer-reptile-0-25",
            "outer-reptile-1",
        ),
    ),
    final=FinalTasks(task_count=1000, query_count=5),
)

if __name__ == "__main__":
    main(FIGURE)
