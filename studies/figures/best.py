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
from studies.figures.figure import Claim, Figure, arm
from studies.figures.panels import along_and_after

TRAINED_HEAD = {
    "serving.head": "{ default = 'trained', allowed = ['trained', 'prototype', 'zero'] }"
}
ONE_UPDATE = {
    "inner.learning_rate": 0.4,
    "inner.batch_size": 5,
    "inner.step_count": 2,
    "outer.meta_batch_size": 8,
    **TRAINED_HEAD,
}
TASK = "way = 5, shot = 6, tail_shot = 5, labels = 'shuffled'"
ARMS = (
    arm(
        "reptile",
        "Reptile, as omniglot-5way",
        {
            "task": "{ way = 5, shot = 10, tail_shot = 0, labels = 'shuffled' }",
            "inner.preconditioner": "carried",
            "inner.learning_rate": 0.001,
            "inner.batch_size": 10,
            "inner.step_count": 5,
            "outer.algorithm": "reptile",
            "outer.optimizer": "sgd",
            "outer.meta_step_size": 1.0,
            "outer.meta_batch_size": 5,
            "outer.meta_batch": "serial",
            "serving.preconditioner": "carried",
            "serving.preconditioners": ["carried", "frozen", "fresh", "sgd"],
            **TRAINED_HEAD,
        },
    ),
    arm("fomaml", "FOMAML, 1 update", {"task": f"{{ {TASK} }}", **ONE_UPDATE}),
    arm(
        "statistics",
        "FOMAML, support statistics",
        {"task": f"{{ {TASK}, tail_batch_norm = 'support' }}", **ONE_UPDATE},
    ),
    arm(
        "prototypes",
        "prototype head, no update, 5 ways",
        {"task.way": 5, "inner.batch_size": 5, "outer.meta_batch_size": 8},
    ),
    arm("ways-20", "the same, 20 ways", {}),
    arm(
        "ways-60",
        "the same, 60 ways: omniglot-best",
        {"task.way": 60, "task.shot": 4, "task.tail_shot": 3, "outer.meta_batch_size": 1},
    ),
    arm(
        "transductive",
        "20 ways, the queries' own statistics",
        {"task.tail_batch_norm": "transductive"},
    ),
    arm("updates", "20 ways, 5 updates", {"inner.step_count": 6}),
    arm("constant", "20 ways, outer step size constant", {"outer.meta_step_size_final": 0.001}),
)

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
    arms=ARMS,
    panels=along_and_after(
        100,
        [made.name for made in ARMS],
        along=["reptile", "fomaml", "statistics", "prototypes", "ways-20", "updates"],
    ),
    claims=CLAIMS,
    part="val",
    query_count=1,
)

if __name__ == "__main__":
    figure_command(FIGURE)()
