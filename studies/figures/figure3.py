"""Figure 3: which sums of the inner gradients g1 ... g4 learn.

    python studies/figures/figure3.py --data DATA --out DIR

Nichol, Achiam, Schulman 2018 (arXiv 1803.02999v3), section 6.2, with the commands of the authors'
code (openai/supervised-reptile, README, "Comparing different inner-loop gradient combinations"):
5-way 5-shot Omniglot, inner SGD, 40,000 meta-iterations of one task. A task has 5 k shots for k
batches of 25 without repeats: its mini-batches share no example.

The paper's curves are single runs whose every point is one task. Here every point is 50 tasks, and
the arms are compared on the same 1,000 tasks, with five queries per class. The paper evaluates each
query together with the support set; `support` normalizes by the support set alone, which takes one
run of the network instead of one per query.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.figures.command import figure_command
from studies.figures.figure import START, Claim, Figure
from studies.figures.panels import along_and_after

# What the paper and its authors' blog say of the figure. "No progress" allows 3 points over the
# untrained network: what joint training learns about images in general.
CLAIMS = (
    Claim("g1 makes no progress", "g1", START, -0.03),
    Claim("g1 < g1 + g2", "g1", "g1-g2"),
    Claim("g1 + g2 < g2", "g1-g2", "g2"),
    Claim("g4 <= g1 + g2 + g3 + g4", "g4", "g1-g2-g3-g4", -0.01),
    Claim("sums improve: g1 + g2 < g1 + g2 + g3", "g1-g2", "g1-g2-g3"),
    Claim("sums improve: g1 + g2 + g3 < g1 + g2 + g3 + g4", "g1-g2-g3", "g1-g2-g3-g4"),
    Claim("last gradients improve: g2 < g3", "g2", "g3"),
    Claim("last gradients improve: g3 < g4", "g3", "g4"),
    Claim("scaled sums improve: a half of two < a third of three", "half-g1-g2", "third-g1-g2-g3"),
    Claim(
        "scaled sums improve: a third of three < a fourth of four",
        "third-g1-g2-g3",
        "fourth-g1-g2-g3-g4",
    ),
)

FIGURE = Figure(
    name="figure3",
    title="Gradient combinations on Omniglot, 5-way 5-shot",
    panels=along_and_after(50),
    claims=CLAIMS,
)

if __name__ == "__main__":
    figure_command(FIGURE)()
