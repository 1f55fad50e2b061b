"""The tables of docs/choosing.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from studies.choosing import page_blocks
from studies.common.results import Provenance, Result
from studies.common.sweep import AXES, Sweep, choice_words

Choice = Mapping[str, Any]
SERVED: Choice = dict(
    zip((*AXES, "baseline"), ("support", "carried", "trained", "all", 10, None), strict=True)
)
NIL = {**dict.fromkeys(SERVED), "batch_norm_mode": "support", "step_count": 0, "baseline": "nil"}
# Each a choice, its accuracy and its difference to the defaults.
Rows = Sequence[tuple[Choice, float, float | None]]


def result_of(rows: Rows) -> Result:
    """Lay out accuracies and differences by their choices as a sweep's result."""
    listed = [
        {
            **choice,
            "accuracy": accuracy,
            "ci95": 0.01,
            "ece": 0.02,
            "nll": 0.3,
            "ms_per_task": 10.0 + choice["step_count"],
            "difference": difference,
            "difference_ci95": None if difference is None else 0.002,
        }
        for choice, accuracy, difference in rows
    ]
    made_with = Provenance("kshot evaluate omniglot --sweep OUT", None, [0], None, {})
    settings = {
        "inner_loop": {name: SERVED[name] for name in ("preconditioner", "step_count")},
        "batch_norm": {"default": SERVED["batch_norm_mode"]},
        "head": {"default": SERVED["head"]},
        "scope": {"default": SERVED["scope"]},
    }
    return Result("choosing", "omniglot-1shot", made_with, settings, listed)


def blocks_of(rows: Rows) -> Mapping[str, str]:
    return page_blocks({"omniglot-1shot": result_of(rows)})


def test_table_has_the_changes_that_matter() -> None:
    blocks = blocks_of(
        [
            (NIL, 0.8, -0.13),
            (SERVED, 0.93, None),
            ({**SERVED, "step_count": 0}, 0.2, -0.73),
            ({**SERVED, "step_count": 5}, 0.926, -0.004),
            ({**SERVED, "step_count": 20}, 0.93, 0.002),
            ({**SERVED, "step_count": 50}, 0.94, 0.01),
            ({**SERVED, "head": "prototype", "step_count": 0}, 0.85, -0.08),
            ({**SERVED, "preconditioner": "sgd", "scope": "head"}, 0.95, 0.02),
            ({**SERVED, "batch_norm_mode": "transductive"}, 0.93, 0.0),
        ]
    )

    assert blocks["changes of omniglot"].splitlines()[2:] == [
        "| nothing: accuracy, % | 93.00 ± 1.00 (20) |",
        "| mode `transductive` | +0.00 ± 0.20 (20) |",
        "| 0 steps | **-73.00 ± 0.20** (10) |",
        "| 5 steps | **-0.40 ± 0.20** (15) |",
        "| 50 steps | **+1.00 ± 0.20** (60) |",
        "| class means, 0 steps | **-8.00 ± 0.20** (10) |",
        "| NIL | **-13.00 ± 0.20** (10) |",
    ]
    assert blocks["overview"].endswith(
        "| 5 steps | preconditioner `sgd`, scope `head`: **+2.00 ± 0.20** |"
    )
    assert blocks_of([(SERVED, 0.93, None)])["overview"].endswith("| 10 steps | the defaults |")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        # by steps; those of the defaults have no difference
        ({0: -0.7, 2: -0.004, 5: -0.001}, "2 steps"),
        ({0: -0.7, 1: -0.004, 2: -0.02, 5: 0.001}, "5 steps"),
        ({0: -0.004, 1: -0.005, 5: -0.01}, "10 steps"),
        ({0: 0.004, 1: 0.0, 50: -0.2}, "0 steps"),
        ({0: -0.3, 1: 0.0}, "1 step"),
    ],
)
def test_steps_are_as_good_from_where_no_larger_number_falls_behind(
    differences: Mapping[int, float], words: str
) -> None:
    rows: list[tuple[Choice, float, float | None]] = [(SERVED, 0.9, None)]
    for steps, difference in reversed(differences.items()):
        rows.append(({**SERVED, "step_count": steps}, 0.9 + difference, difference))

    assert blocks_of(rows)["overview"].splitlines()[-1].split(" | ")[4] == words


def test_of_equally_accurate_choices_the_defaults_are_best() -> None:
    result = result_of([({**SERVED, "step_count": 0}, 0.93, 0.0), (SERVED, 0.93, None)])

    assert Sweep.of(result).best() == result.rows[1]


def test_choice_is_named_by_what_differs() -> None:
    other = {**SERVED, "step_count": 1, "head": "zero", "batch_norm_mode": "transductive"}

    assert choice_words(other, SERVED) == "mode `transductive`, head `zero`, 1 step"
    assert choice_words(SERVED, SERVED) == "the defaults"
