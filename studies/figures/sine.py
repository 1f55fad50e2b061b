"""Sine waves: Reptile, FOMAML and MAML against joint training.

    python studies/figures/sine.py --out DIR

Nichol, Achiam, Schulman 2018 (arXiv 1803.02999v3), section 2 and figure 1, with the settings of
J. Schulman's public example, as in the recipe `sine`: a tanh network, one pass of five steps over
the whole grid, 32 steps on ten points at test time.

The other arms are ours. Joint training takes one step on the whole grid, so it sees the same 50
points of the same waves as Reptile, and a five times larger outer step, so it moves as far. FOMAML
and MAML take Reptile's five steps and count the last gradient; their outer loop is Adam with MAML's
rate.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.common.plots import GREY
from studies.figures.command import figure_command
from studies.figures.figure import ZERO, Claim, Figure, Panel
from studies.figures.panels import Drawing, draw_curve


def draw_waves(to: Drawing) -> None:
    """Draw one wave, its support set, and each arm's fits before and after the inner steps."""
    axes, wave = to.axes, to.start.picture or {}
    x = wave["x"]
    axes.plot(x, wave["wanted"], color="black", linewidth=2.5, alpha=0.35, label="true wave")
    axes.plot(wave["support_x"], wave["support_y"], "k^", markersize=6, label="support set")
    for look, (outcome, *_) in to.lines:
        before, *_, after = (outcome.picture or {})["fits"].values()
        axes.plot(x, before, ":", color=look.color)
        axes.plot(x, after, "-", color=look.color, label=look.label)
    axes.set_ylabel("y")


def draw_steps(to: Drawing) -> None:
    """Draw the errors after each number of inner steps, with intervals."""
    axes, names = to.axes, [name for name in to.start.scores if name != ZERO]
    steps = [float(name.removesuffix("_steps")) for name in names]
    for look, (outcome, *_) in to.lines:
        to.draw_scores(look, steps, [to.score(outcome, name) for name in names])
    zero, _ = to.score(to.start, ZERO)
    axes.axhline(zero, color=GREY, linestyle=":", label="zero function")
    axes.axhline(zero / 10, color=GREY, linestyle="--", label="a tenth of it")
    axes.set_yscale("log")
    axes.set_ylabel("mean squared error")


CLAIMS = (
    Claim("Reptile is below a tenth of the zero function's error", "reptile", ZERO, factor=0.1),
    Claim(
        "joint training is above a tenth of the zero function's error", ZERO, "joint", factor=10.0
    ),
    Claim("Reptile is below joint training", "reptile", "joint"),
    Claim("FOMAML is below joint training", "fomaml", "joint"),
    Claim("MAML is below joint training", "maml", "joint"),
)

FIGURE = Figure(
    name="sine",
    title="Sine waves from ten points",
    panels=(
        Panel(
            draw_waves,
            "one test wave: before (dotted) and after 32 steps",
            "x",
            ("reptile", "joint"),
        ),
        Panel(
            draw_steps, "error on test waves, mean and 95 % interval", "inner steps on ten points"
        ),
        Panel(draw_curve, "along the training", "meta-iterations"),
    ),
    claims=CLAIMS,
    part="",
)

if __name__ == "__main__":
    figure_command(FIGURE)()
