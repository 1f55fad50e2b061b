"""The list of rows that the reproduction has measured, and of those that it has not, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kshot.bench.reproduction_rows import TARGETS, Target, target_of
from kshot.bench.reproduction_run import Asked, command_for, described
from kshot.bench.row_file import Row, read_row_file
from kshot.trainer.errors import DataError
from kshot.trainer.recipe.files import load_recipe

__all__ = ["KEYS", "measured_rows", "merged", "read_rows", "renewed"]

# What every row has, null where nothing was measured.
KEYS = (
    "row",
    "algorithm",
    "batch_norm",
    "accuracy",
    "ci95",
    "ci_method",
    "tasks",
    "meta_iterations",
    "seed",
    "device",
    "commit",
    "paper",
)

COUNTS = ("way", "shot", "queries", "step_count", "batch_size")
# What tables and checks read besides, of each row, and of one that was measured.
ALWAYS = ("gate", "way", "shot", "recipe")
MEASURED = (
    "queries",
    "step_count",
    "batch_size",
    "preconditioner",
    "bundle",
    "built_in",
    "bundle_digest",
    "weights_digest",
    "recipe_digest",
    "training_seed",
    "command",
)

# How a row names its bundle, which may change while the weights do not: a recipe also says how its
# bundle is served.
NAMES = ("bundle", "built_in", "bundle_digest", "recipe_digest")


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file, none where it is missing; raises ``DataError`` for another file."""
    rows = read_row_file(path, KEYS, _is_whole)
    for row in rows:
        missing = [key for key in _wanted(row) if key not in row]
        if missing:
            raise DataError(f"results {path}: row {row['row']} has no {', '.join(missing)}")
    return rows


def measured_rows(rows: Sequence[Row], target: Target) -> list[Row]:
    """Return those of a target's rows that were measured."""
    return [row for row in rows if target.owns(row) and row["accuracy"] is not None]


def renewed(rows: Sequence[Row], asked: Asked) -> list[Row] | None:
    """Return a target's rows where what is asked for has been measured, None where it has not.

    That is the same weights, adapted in the same way to at least as many tasks, in every mode. A
    bundle whose manifest alone has changed since, as by a calibration or other defaults, or which
    ships since, keeps its accuracies; the rows then name it as it is today.
    """
    wanted = described(asked)
    result: list[Row] = []
    for mode in asked.target.modes:
        found = [
            row for row in measured_rows(rows, asked.target) if row["batch_norm"] == mode.value
        ]
        if not found or not _answers(found[0], wanted, asked.task_count):
            return None
        counted = replace(asked, task_count=_tasks(found[0]))
        named = {key: wanted[key] for key in NAMES}
        result.append({**found[0], **named, "command": command_for(counted, mode)})
    return result


def merged(rows: Sequence[Row], new: Sequence[Row], builtin: Sequence[str]) -> list[Row]:
    """Return the rows of all targets in order: new ones, else old ones, else not measured.

    ``builtin`` are the names of the bundles that ship with the package: what was not measured says
    why by them. Rows of no target are left out.
    """
    result: list[Row] = []
    for target in TARGETS:
        for mode in target.modes:
            candidates = [*measured_rows(new, target), *measured_rows(rows, target)]
            found = [row for row in candidates if row["batch_norm"] == mode.value]
            result.append(found[0] if found else _not_measured(target, mode.value, builtin))
    return result


def _answers(row: Row, wanted: Row, task_count: int) -> bool:
    same = all(row.get(key) == value for key, value in wanted.items() if key not in NAMES)
    return same and _tasks(row) >= task_count


def _tasks(row: Row) -> int:
    tasks = row["tasks"]
    assert isinstance(tasks, int)  # noqa: S101 -- a row that was measured has a number
    return tasks


def _not_measured(target: Target, mode: str, builtin: Sequence[str]) -> Row:
    published = {of.value: figure for of, figure in target.published.items()}
    gates = {of.value: gate for of, gate in target.gates.items()}
    known = {
        "row": target.row,
        "algorithm": target.algorithm,
        "batch_norm": mode,
        "paper": published.get(mode),
    }
    return {
        **{key: known.get(key) for key in KEYS},
        "gate": gates.get(mode),
        "way": target.way,
        "shot": target.shot,
        "recipe": target.recipe,
        "not_measured": _reason(target, builtin),
    }


def _reason(target: Target, builtin: Sequence[str]) -> str:
    if target.row.startswith("m"):
        return "mini-ImageNet's images are ImageNet's and cannot be shipped"
    if target.builtin is None:
        hours = load_recipe(target.recipe).cost.partition(": ")[2]
        return f"no bundle of the recipe {target.recipe} was trained: {hours}"
    if target.builtin not in builtin:
        return f"no bundle {target.builtin} ships with the package yet"
    tasks = f"{target.task_count:,} tasks"
    return f"the built-in bundle {target.builtin} has not been measured on {tasks} yet"


def _is_whole(row: Row) -> bool:
    """Tell whether a row has a target and a mode, and either numbers or why there are none."""
    target = target_of(row)
    if target is None or row["batch_norm"] not in target.modes:
        return False
    if "not_measured" in row:
        return row["accuracy"] is None
    fractions = (row["accuracy"], row["ci95"])
    counts = [row[key] for key in (*COUNTS, "tasks") if key in row]
    return all(isinstance(value, float | int) for value in fractions) and all(
        isinstance(value, int) for value in counts
    )


def _wanted(row: Row) -> Sequence[str]:
    return ALWAYS if "not_measured" in row else (*ALWAYS, *MEASURED)
