"""Sweep what an adaptation may choose: mode, preconditioner, head, scope and number of steps.

python studies/choosing.py [--data DIR] [--only omniglot-1shot] [--page]

Each pair of a built-in bundle and tasks gets a JSON file and a picture: accuracy, calibration and
milliseconds of every choice on the same tasks, and the paired difference to the bundle's defaults.
`--page` measures nothing; it draws the pictures again and writes the tables of docs/choosing.md.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kshot.bundle import Manifest, builtin_bundle, load_bundle
from kshot.trainer.commands.evaluation_session import Session
from kshot.trainer.evaluate.evaluator import Report
from kshot.trainer.evaluate.sweep import Axes, SweepRow, run_sweep
from studies.common.bundles import measured_name
from studies.common.evaluation import Evaluation, Pair, read_pairs
from studies.common.page import table, write_blocks
from studies.common.results import DOCS, Result, Row, read_results, result_path
from studies.common.runner import Found, Options, chosen, run_work, study_options
from studies.common.sweep import AXES, Sweep, choice_words, plot_sweep, step_words

STUDY = "choosing"
# Digits after the point, far below the half widths of the intervals.
DIGITS = 5
MEASURED = ("accuracy", "ci95", "ece", "nll", "ms_per_task")
OVERVIEW = ("bundle and tasks", "as served, %", "ECE", "ms", "as good from", "most accurate")
DEFAULTS = ("bundle", "mode", "preconditioner", "head", "scope", "steps")
# Half a point of accuracy goes unnoticed in service.
AS_GOOD = -0.005


@click.command()
@study_options
def command(options: Options) -> None:
    """Sweep pairs and keep what was found, or write the page."""
    if options.page:
        results = read_results(STUDY, read_pairs(STUDY), options.out)
        write_blocks(DOCS / "choosing.md", page_blocks(results))
    else:
        compiled = options.device.type == "cpu" if options.compiled is None else options.compiled
        options = replace(options, compiled=compiled)
        results = {
            pair.name: run_work(STUDY, evaluation(pair, compiled).work(measure, options), options)
            for pair in chosen(read_pairs(STUDY), options)
        }
    for name, result in results.items():
        plot_sweep(result_path(STUDY, name, options.out).with_suffix(".png"), result)


def evaluation(pair: Pair, compiled: bool) -> Evaluation:
    """Return what is swept: all choices of a bundle on a pair's tasks."""
    name = measured_name(pair.bundle)
    bundle = load_bundle(builtin_bundle(name))
    axes = all_choices(bundle.manifest)
    words = (
        *("--step-counts", ",".join(map(str, axes.step_counts))),
        *("--scopes", ",".join(axes.scopes)),
        *("--compile" if compiled else "--no-compile", "--sweep", "OUT"),
    )
    swept = {"step_counts": axes.step_counts, "compiled": compiled}
    deciding = {**pair.tasks.deciding_answers(bundle), **swept}
    return Evaluation(pair.name, bundle, name, pair.tasks, words, deciding)


def all_choices(manifest: Manifest) -> Axes:
    """Return every choice that a bundle allows; its default number of steps is among the steps."""
    axes = Axes.of(manifest)
    step_counts = tuple(sorted({*axes.step_counts, manifest.inner_loop.step_count}))
    return replace(axes, step_counts=step_counts, scopes=manifest.scope.allowed)


def measure(session: Session, report: Report) -> Found:
    """Sweep all choices on the same tasks."""
    axes, episodes = all_choices(session.bundle.manifest), session.episodes
    rows = run_sweep(session.evaluator(), session.settings, axes, episodes=episodes, report=report)
    more = {
        "ci_methods": sorted({row.result.ci_method for row in rows}),
        "difference_methods": sorted({row.difference.method for row in rows if row.difference}),
        "diverged": sum(row.result.diverged_count for row in rows),
    }
    return [_row(row) for row in rows], more


def _row(row: SweepRow) -> Row:
    """Lay out a row; the bundle's defaults have no difference to themselves."""
    found, difference = {name: getattr(row.result, name) for name in MEASURED}, row.difference
    found["difference"] = difference.mean if difference else None
    found["difference_ci95"] = difference.half_width if difference else None
    return {
        "batch_norm_mode": row.mode,
        **vars(row.variant),
        "step_count": row.result.step_count,
        **{name: value and round(value, DIGITS) for name, value in found.items()},
    }


def page_blocks(results: Mapping[str, Result]) -> Mapping[str, str]:
    """Return the text of each block: overview, defaults, a table for each bundle."""
    pairs = read_pairs(STUDY)
    sweeps = {pairs[name]: Sweep.of(result) for name, result in results.items()}
    bundles: dict[str, dict[Pair, Sweep]] = {}
    for pair, sweep in sweeps.items():
        bundles.setdefault(pair.bundle, {})[pair] = sweep
    served = [
        [f"`{bundle}`", *(f"`{next(iter(of.values())).defaults[axis]}`" for axis in AXES)]
        for bundle, of in bundles.items()
    ]
    return {
        "overview": table(OVERVIEW, (_overview(*item) for item in sweeps.items())),
        "defaults": table(DEFAULTS, served),
        **{f"changes of {bundle}": _changes(of) for bundle, of in bundles.items()},
    }


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
    served = sweep.defaults["step_count"]
    fewer = [row for row in sweep.where("step_count") if row["step_count"] < served]
    good = takewhile(lambda row: row["difference"] > AS_GOOD, reversed(fewer))
    return step_words([served, *(row["step_count"] for row in good)][-1])


def _changes(sweeps: Mapping[Pair, Sweep]) -> str:
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
        for row in sweep.where(axis):
            if row is not sweep.served:
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


if __name__ == "__main__":
    command()
