"""The tables of docs/reproduction.md: a line for each target, a column for each mode."""

from collections.abc import Mapping

from kshot.bundle import BatchNormMode
from kshot.trainer.recipe.files import list_recipes, load_recipe
from studies.common.page import table
from studies.common.results import Result
from studies.common.rows import TARGETS, Target

ALGORITHMS = {"reptile": "Reptile", "fomaml": "first-order MAML", "maml": "MAML"}
# The tables by how their rows are named, in the order of the page.
TABLES = {"omniglot": "o", "best": "best", "mini-imagenet": "m", "cifar-fs": "cifar"}
HEAD = ("row", "algorithm", "tasks", "meta-iterations", *(f"`{mode}`, %" for mode in BatchNormMode))

Results = Mapping[str, Result]


def page_blocks(results: Results) -> Mapping[str, str]:
    """Return the text of each block: a table for each data set, and what is missing."""
    lines: dict[str, list[list[str]]] = {prefix: [] for prefix in TABLES.values()}
    for target in TARGETS.values():
        lines[target.row.rstrip("0123456789")].append(_line(target, results.get(target.name)))
    blocks = {name: table(HEAD, lines[prefix]) for name, prefix in TABLES.items()}
    return {**blocks, "not-measured": _missing(results)}


def _line(target: Target, result: Result | None) -> list[str]:
    algorithm, tasks, length = target.algorithm, "not measured", ""
    if result is not None:
        of = result.settings
        algorithm, tasks, length = of["algorithm"], f"{of['tasks']:,}", f"{of['meta_iterations']:,}"
        if of["recipe"] in list_recipes():
            whole = load_recipe(of["recipe"]).outer.meta_iterations
            length += f" of {whole:,}" * (whole != of["meta_iterations"])
    cells = [_cell(target, result, mode) for mode in BatchNormMode]
    return [target.row, ALGORITHMS.get(algorithm, algorithm), tasks, length, *cells]


def _cell(target: Target, result: Result | None, mode: BatchNormMode) -> str:
    """Say what was measured, what the paper has, and whether the gate was reached.

    Fewer tasks than the decisive number cannot reach a gate; they miss it if their whole interval
    lies below.
    """
    rows = {row["batch_norm"]: row for row in result.rows} if result else {}
    found = rows.get(mode)
    measured = f"**{_percent(found['accuracy'])}** ± {_percent(found['ci95'])}" if found else ""
    compared = []
    if mode in target.published:
        compared.append(f"paper {_percent(target.published[mode])}")
    if mode in target.gates:
        gate = target.gates[mode]
        said = f"gate {_percent(gate).removesuffix('0')}"
        if result and found:
            trial = result.settings["tasks"] < target.decisive_count
            if trial and found["accuracy"] + found["ci95"] >= gate:
                said += " undecided"
            else:
                said += " reached" if found["accuracy"] >= gate else " missed"
        compared.append(said)
    return f"{measured} ({', '.join(compared)})".strip() if compared else measured


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _missing(results: Results) -> str:
    """List what was not measured by its reason."""
    reasons: dict[str, list[str]] = {}
    for target in TARGETS.values():
        if target.name not in results:
            name = f"{target.row} ({ALGORITHMS[target.algorithm]})"
            reasons.setdefault(_reason(target), []).append(name)
    lines = [f"- {', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return "\n".join(lines) or "Every row was measured."


def _reason(target: Target) -> str:
    if target.row.startswith("m"):
        return "mini-ImageNet's images are ImageNet's and cannot be shipped"
    hours = load_recipe(target.recipe).cost.partition(": ")[2]
    return f"the recipe `{target.recipe}` was not trained: {hours}"
