"""What Adam's carried second moment v is worth, and how it goes through a meta-batch.

    python studies/figures/preconditioners.py --data DATA --out DIR

`omniglot-5way` (Nichol, Achiam, Schulman 2018, arXiv 1803.02999v3, appendix A) with v carried from
task to task, as the authors' code does; carried as the mean of tasks that step side by side; new in
each task; or with plain SGD at a rate of its own (`omniglot-5way-sgd`). The paper has no such
figure. The authors say in their issues that the order of tasks hardly matters and that v helps at
test time (openai/supervised-reptile, issues 11 and 28).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.figures.command import figure_command
from studies.figures.figure import Claim, Figure
from studies.figures.panels import along_and_after

# What was expected: v is part of what is learned, and the order of tasks is not.
CLAIMS = (
    Claim("a fresh v is worse than a carried one", "fresh", "carried-serial"),
    Claim("SGD is worse than a carried v", "sgd", "carried-serial"),
    Claim(
        "serial is at most a point better than stacked", "carried-serial", "carried-stacked", -0.01
    ),
    Claim(
        "stacked is at most a point better than serial", "carried-stacked", "carried-serial", -0.01
    ),
)

FIGURE = Figure(
    name="preconditioners",
    title="What the inner loop divides its gradients by: Omniglot, 5-way 1-shot",
    panels=along_and_after(100),
    claims=CLAIMS,
)

if __name__ == "__main__":
    figure_command(FIGURE)()
