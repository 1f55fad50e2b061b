"""The tables of docs/reproduction.md, from the rows that were measured and those that were not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kshot.bench.marked_page import table
from kshot.bench.reproduction_rows import TARGETS
from kshot.bench.row_file import Row

__all__ = ["page_blocks"]

ALGORITHMS = {"reptile": "Reptile", "fomaml": "first-order MAML", "maml": "MAML"}
# The tables by how their rows are named, in the order of the page.
TABLES = {"omniglot": "o", "best": "best", "mini-imagenet": "m", "cifar-fs": "cifar"}
HEAD = ("row", "algorithm", "batch norm", "paper", "here", "tasks", "meta-iterations", "gate")


def page_blocks(rows: Sequence[Row]) -> Mapping[str, str]:
    """Return the text of each block of the page: a table for each data set, and what is missing."""
    cells: dict[str, list[list[str]]] = {of: [] for of in TABLES.values()}
    for row in rows:
        cells[str(row["row"]).rstrip("0123456789")].append(_cells(row))
    blocks = {name: table(HEAD, cells[of]) for name, of in TABLES.items()}
    return {**blocks, "not-measured": _missing(rows)}


def _cells(row: Row) -> list[str]:
    algorithm = str(row["algorithm"])
    tasks = row["tasks"]
    return [
        str(row["row"]),
        ALGORITHMS.get(algorithm, algorithm),
        f"`{row['batch_norm']}`",
        _percent(row["paper"]),
        _here(row),
        f"{tasks:,}" if isinstance(tasks, int) else "",
        _length(row),
        _gate(row),
    ]


def _here(row: Row) -> str:
    if "not_measured" in row:
        return "not measured"
    return f"**{_percent(row['accuracy']).removesuffix(' %')}** ± {_percent(row['ci95'])}"


def _length(row: Row) -> str:
    trained, wanted = row["meta_iterations"], row.get("meta_iterations_wanted")
    if not isinstance(trained, int):
        return ""
    return f"{trained:,} of {wanted:,}" if isinstance(wanted, int) else f"{trained:,}"


def _gate(row: Row) -> str:
    """Say the least accuracy that counts as reproduced, and whether it was reached.

    Fewer tasks than the row's own are too few to reach it, and enough to miss it where their whole
    interval lies below.
    """
    gate, accuracy, tasks = row["gate"], row["accuracy"], row["tasks"]
    if not isinstance(gate, float):
        return ""
    said = f"{100 * gate:.2f}".removesuffix("0") + " %"
    if not isinstance(accuracy, float):
        return said
    ci95 = row["ci95"]
    assert isinstance(tasks, int) and isinstance(ci95, float | int)  # noqa: S101 -- measured
    trial = tasks < max(target.task_count for target in TARGETS if target.row == row["row"])
    if trial and accuracy + ci95 >= gate:
        return f"{said}: a trial decides nothing"
    return f"{said}: {'reached' if accuracy >= gate else 'not reached'}"


def _percent(value: object) -> str:
    return f"{100 * value:.2f} %" if isinstance(value, float | int) else "-"


def _missing(rows: Sequence[Row]) -> str:
    """List what was not measured by its reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if "not_measured" in row:
            algorithm = str(row["algorithm"])
            name = f"{row['row']} ({ALGORITHMS.get(algorithm, algorithm)})"
            names = reasons.setdefault(str(row["not_measured"]), [])
            if name not in names:
                names.append(name)
    lines = [f"- {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return "\n".join(lines) or "Every row was measured."
