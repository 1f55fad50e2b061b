"""The tables of docs/reproduction.md."""

import pytest

from studies.common.results import Provenance, Result
from studies.reproduction import page_blocks

MADE_WITH = Provenance("kshot evaluate", None, [0], None, {})


def result(name: str, accuracy: float, **changes: object) -> Result:
    """Make a result of which only the plain mode was measured, on 10,000 tasks."""
    settings = {
        "algorithm": "reptile",
        "recipe": "omniglot-5way",
        "meta_iterations": 100_000,
        "tasks": 10_000,
        **changes,
    }
    row = {"batch_norm": "support_and_query", "accuracy": accuracy, "ci95": 0.002}
    if name.startswith("cifar"):
        row["batch_norm"] = "transductive"
    return Result("reproduction", name, MADE_WITH, settings, [row])


@pytest.mark.parametrize(
    ("accuracy", "changes", "begins", "said"),
    [
        (0.95, {}, "10,000 | 100,000 |", "**95.00** ± 0.20 (paper 95.39, gate 95.0 reached)"),
        (
            0.9499,
            {"meta_iterations": 30_000},
            "10,000 | 30,000 of 100,000 |",
            "**94.99** ± 0.20 (paper 95.39, gate 95.0 missed)",
        ),
        (
            0.95,
            {"tasks": 20},
            "20 | 100,000 |",
            "**95.00** ± 0.20 (paper 95.39, gate 95.0 undecided)",
        ),
        (
            0.9481,
            {"tasks": 20},
            "20 | 100,000 |",
            "**94.81** ± 0.20 (paper 95.39, gate 95.0 undecided)",
        ),
        (
            0.9479,
            {"tasks": 20},
            "20 | 100,000 |",
            "**94.79** ± 0.20 (paper 95.39, gate 95.0 missed)",
        ),
    ],
)
def test_gate_is_reached_missed_or_undecided(
    accuracy: float, changes: dict[str, object], begins: str, said: str
) -> None:
    blocks = page_blocks({"o15": result("o15", accuracy, **changes)})

    (found, *_) = blocks["omniglot"].splitlines()[2:]
    assert found == f"| o15 | Reptile | {begins} (paper 97.68, gate 97.5) | {said} |  |"


@pytest.mark.parametrize(("tasks", "said"), [(600, "reached"), (599, "undecided")])
def test_row_is_decided_by_its_own_number_of_tasks(tasks: int, said: str) -> None:
    one = result("cifar15-fomaml", 0.95, tasks=tasks, algorithm="fomaml", recipe="mine")

    (found, _) = page_blocks({"cifar15-fomaml": one})["cifar-fs"].splitlines()[2:]
    assert f"(gate 57.06 {said})" in found


def test_missing_rows_say_why() -> None:
    blocks = page_blocks({})

    assert blocks["mini-imagenet"].endswith(
        "| m55 | MAML | not measured |  | (paper 63.11) |  |  |"
    )
    whole = page_blocks({"o15": result("o15", 0.95)})["not-measured"]
    assert "o15 (Reptile)" in blocks["not-measured"]
    assert "o15 (Reptile)" not in whole
    assert "- o55 (Reptile): the recipe `omniglot-5way` was not trained: about" in whole
    assert "m15 (Reptile), m15 (first-order MAML)" in blocks["not-measured"]
    assert "`omniglot-5way-maml` was not trained: about 4 hours" in blocks["not-measured"]
