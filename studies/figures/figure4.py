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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.common.plots import GREY
from studies.figures.command import figure_command
from studies.figures.figure import Claim, Figure, Panel
from studies.figures.panels import Drawing


def draw_sweep(to: Drawing) -> None:
    """Draw the final scores over the values of each line's sweep, with intervals."""
    ticks: set[float] = set()
    for look, arms in to.lines:
        values = [arm.value for arm in arms if arm.value is not None]
        to.draw_scores(look, values, map(to.score, arms))
        ticks.update(values)
    to.axes.set_xticks(sorted(ticks), [f"{value:g}" for value in sorted(ticks)])
    to.axes.minorticks_off()
    to.axes.axhline(to.score(to.start)[0], color=GREY, linestyle=":", label="before training")
    to.name_score()


def draw_outer(to: Drawing) -> None:
    """Draw a sweep of outer step sizes, on a logarithmic axis."""
    to.axes.set_xscale("log")
    draw_sweep(to)


def far_below(text: str, panel: str, value: str) -> Claim:
    """Claim that a shared tail is more than 5 points below a separate one."""
    lower, higher = (f"{panel}-{tail}-cycling-{value}" for tail in ("shared", "separate"))
    return Claim(f"{text}: a shared tail is far below a separate one", lower, higher, 0.05)


def as_good(text: str, line: str, reference: str, value: str) -> Claim:
    """Claim that the arm of one value is at most 3 points below that of a reference value."""
    return Claim(text, f"{line}-{reference}", f"{line}-{value}", -0.03)


SHARED, SEPARATE_TAIL = "steps-shared-cycling", "steps-separate-cycling"
REPLACEMENT_FALLS_LESS = "at 5 steps replacement falls less than cycling"
SAME_STEPS = "4 steps: a shared tail is as good as a separate one"
OUTER = "Reptile: outer step 1 on the full batch is as good as 0.25"

CLAIMS = (
    far_below("5 steps", "steps", "5"),
    far_below("8 steps", "steps", "8"),
    far_below("10 steps", "steps", "10"),
    Claim(SAME_STEPS, f"{SEPARATE_TAIL}-4", f"{SHARED}-4", -0.03),
    Claim("shared tail: 5 steps are below 4", f"{SHARED}-5", f"{SHARED}-4"),
    Claim(REPLACEMENT_FALLS_LESS, f"{SHARED}-5", "steps-shared-replacement-5"),
    as_good("separate tail: 8 steps are as good as 4", SEPARATE_TAIL, "4", "8"),
    as_good("Reptile: 8 steps are as good as 4", "steps-reptile", "4", "8"),
    as_good("separate tail: 10 steps are as good as 4", SEPARATE_TAIL, "4", "10"),
    as_good("Reptile: 10 steps are as good as 4", "steps-reptile", "4", "10"),
    far_below("batches of 75", "batch", "75"),
    far_below("batches of 50", "batch", "50"),
    as_good(
        "separate tail: batches of 75 are as good as of 25", "batch-separate-cycling", "25", "75"
    ),
    as_good("Reptile: batches of 100 are as good as of 25", "batch-reptile", "25", "100"),
    far_below("outer step 0.25 on the full batch", "outer", "0-25"),
    far_below("outer step 1 on the full batch", "outer", "1"),
    as_good(OUTER, "outer-reptile", "0-25", "1"),
)

FIGURE = Figure(
    name="figure4",
    title="Shared and separate tails on Omniglot, 5-way 5-shot",
    panels=(
        Panel(draw_sweep, "(a) inner steps, batches of 25", "inner steps", ("steps-",)),
        Panel(draw_sweep, "(b) batch size, four steps", "inner batch size, examples", ("batch-",)),
        Panel(
            draw_outer,
            "(c) outer step size, full batch, four steps",
            "outer step size at the start",
            ("outer-",),
        ),
    ),
    claims=CLAIMS,
)

if __name__ == "__main__":
    figure_command(FIGURE)()
