"""The tables of docs/choosing.md: an overview, each change of the defaults, calibration."""

from collections.abc import Iterator, Mapping, Sequence

from kshot.bundle import BatchNormMode
from studies.common.page import table
from studies.common.results import Result, Row
from studies.common.rows import CALIBRATED, SWEPT, Pair
from studies.pages.sweep import AXES, Sweep, choice_words, step_words

PICTURES = "../studies/results/choosing"
OVERVIEW = ("bundle and tasks", "as served, %", "ECE", "ms", "as good from", "most accurate")
DEFAULTS = ("bundle", "mode", "preconditioner", "head", "scope", "steps")
CALIBRATION = ("", "examples", "tasks", *(f"`{mode}`, %" for mode in BatchNormMode))
# Half a point of accuracy goes unnoticed in service.
AS_GOOD = -0.005

Sweeps = Mapping[Pair, Sweep]


def page_blocks(results: Mapping[str, Result]) -> Mapping[str, str]:
    """Return the text of each block: overview, defaults, a table for each bundle, the commands."""
    sweeps = {pair: Sweep.of(results[pair.name]) for pair in SWEPT.values() if pair.name in results}
    bundles: dict[str, dict[Pair, Sweep]] = {}
    for pair, sweep in sweeps.items():
        bundles.setdefault(pair.bundle, {})[pair] = sweep
    served = [
        [f"`{bundle}`", *(f"`{next(iter(of.values())).defaults[axis]}`" for axis in AXES)]
        for bundle, of in bundles.items()
    ]
    commands = [
        f"- [{name}]({PICTURES}/{name}.png): `{result.provenance.command}`"
        for name, result in results.items()
    ]
    return {
        "overview": table(OVERVIEW, (_overview(*item) for item in sweeps.items())),
        "defaults": table(DEFAULTS, served),
        **{f"changes of {bundle}": _changes(of) for bundle, of in bundles.items()},
        "commands": "\n".join(commands),
    }


def calibration_block(results: Mapping[str, Result]) -> str:
    """Return the expected calibration errors, a line for each pair that was measured."""
    lines = []
    for name, result in results.items():
        pair, errors = CALIBRATED[name], {row["batch_norm"]: row["ece"] for row in result.rows}
        tasks = (str(pair.tasks.shot), f"{result.settings['tasks']:,}")
        lines.append([pair.title, *tasks, *(f"{100 * errors[mode]:.1f}" for mode in BatchNormMode)])
    return table(CALIBRATION, lines)


def _overview(pair: Pair, sweep: Sweep) -> Sequence[str]:
    served, best = sweep.served, sweep.best()
    ahead = choice_words(best, sweep.defaults)
    return (
        f"`{pair.bundle}`: {pair.title}",
        _accuracy(served),
        f"{served['ece']:.3f}",
        f"{served['ms_per_task']:.0f}",
        _fewest(sweep),
        f"{ahead}: {_difference(best)}" if best["difference"] else ahead,
    )


def _fewest(sweep: Sweep) -> str:
    """Name the number of steps from which on none falls half a point below the defaults.

    Larger numbers than the defaults' own are not asked.
    """
    count = served = sweep.defaults["step_count"]
    for row in reversed(sweep.where("step_count")):
        if row["step_count"] < served:
            if row["difference"] is not None and row["difference"] <= AS_GOOD:
                break
            count = row["step_count"]
    return step_words(count)


def _changes(sweeps: Sweeps) -> str:
    """Return the table of a bundle: a line for each change that matters, a column for each pair.

    Modes have a line in any case; another change if a difference is larger than its interval.
    """
    changes = {pair: dict(_rows(sweep)) for pair, sweep in sweeps.items()}
    lines = []
    for words in dict.fromkeys(words for of in changes.values() for words in of):
        rows = [of[words] for of in changes.values()]
        if words.startswith("mode") or any(map(_matters, rows)):
            cells = [f"{_difference(row)} ({row['ms_per_task']:.0f})" for row in rows]
            lines.append([words, *cells])
    served = [f"{_accuracy(of.served)} ({of.served['ms_per_task']:.0f})" for of in sweeps.values()]
    head = ["changed", *(pair.title for pair in sweeps)]
    return table(head, [["nothing: accuracy, %", *served], *lines])


def _rows(sweep: Sweep) -> Iterator[tuple[str, Row]]:
    """Go over single changes of the defaults and the two that take no step."""
    for axis in AXES:
        for row in sweep.changed(axis):
            yield choice_words(row, sweep.defaults), row
    if sweep.defaults["head"] != "prototype":
        for row in sweep.where(head="prototype", step_count=0):
            yield "class means, 0 steps", row
    for row in sweep.baselines(sweep.defaults["batch_norm_mode"]):
        yield "NIL", row


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy']:.2f} ± {100 * row['ci95']:.2f}"


def _matters(row: Row) -> bool:
    return bool(abs(row["difference"] or 0.0) > (row["difference_ci95"] or 0.0))


def _difference(row: Row) -> str:
    """Return the difference in points, in bold where it is larger than its interval."""
    points = round(100 * (row["difference"] or 0.0), 2) + 0.0  # no -0.00
    said = f"{points:+.2f} ± {100 * (row['difference_ci95'] or 0.0):.2f}"
    return f"**{said}**" if _matters(row) else said
