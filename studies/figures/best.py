"""What makes `omniglot-best` better than `omniglot-5way`, one change after another.

    python studies/figures/best.py --data DATA --out DIR

All arms train the same network on the same data, with 240 or 250 training images in each
meta-iteration. They adapt by 5 steps of their own inner loop to the same 5-way 1-shot tasks of
validation classes (the training characters mirrored), so test characters choose nothing here.

FOMAML has the settings of `omniglot-5way-fomaml` (Finn, Abbeel, Levine 2017, arXiv 1703.03400) with
more queries and fewer tasks. Prototype heads are from Triantafillou et al. 2020, arXiv 1903.03096,
and more ways in training than in the test from Snell, Swersky, Zemel 2017, arXiv 1703.05175.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studies.figures.command import figure_command
from studies.figures.figure import Claim, Figure
from studies.figures.panels import along_and_after

CLAIMS = (
    Claim("queries that were not adapted to: FOMAML is better than Reptile", "reptile", "fomaml"),
    Claim("queries normalized as in service are better", "fomaml", "statistics"),
    Claim("a prototype head is better than a trained one", "statistics", "prototypes"),
    Claim("20 ways in training are better than the 5 of the test", "prototypes", "ways-20"),
    Claim("60 ways are better than 20", "ways-20", "ways-60"),
    Claim("training with the queries' own statistics is worse", "transductive", "ways-20"),
    Claim("updates before the queries are better than none", "ways-20", "updates"),
    Claim(
        "an outer step size that ends at zero is better than a constant one", "constant", "ways-20"
    ),
)

FIGURE = Figure(
    name="best",
    title="One change after another: Omniglot, 5-way 1-shot, 5 inner steps",
    panels=along_and_after(
        100, along=("reptile", "fomaml", "statistics", "prototypes", "ways-20", "updates")
    ),
    claims=CLAIMS,
    part="val",
    query_count=1,
)

if __name__ == "__main__":
    figure_command(FIGURE)()
